package sidestep.peers;

import com.google.gson.Gson;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.CountDownLatch;

/** Events on standard output. */
final class Events {
  private static final Gson GSON = new Gson();

  /** Prints one event as one line. */
  static void say(String kind, Map<String, Object> fields) {
    Map<String, Object> event = new LinkedHashMap<>();
    event.put("event", kind);
    event.put("t_ms", wallClock());
    event.putAll(fields);
    String line = GSON.toJson(event);
    synchronized (Events.class) {
      System.out.println(line);
      System.out.flush();
    }
  }

  /** Ends the process over what it was asked. */
  static void refuse(String message) {
    say("error", Map.of("message", message));
    Runtime.getRuntime().halt(2);
  }

  static double wallClock() {
    Instant now = Instant.now();
    return now.getEpochSecond() * 1e3 + now.getNano() / 1e6;
  }

  /** Is counted down at SIGTERM; whoever waits for it ends the process. */
  static CountDownLatch terminated() {
    CountDownLatch told = new CountDownLatch(1);
    for (String name : new String[] {"TERM", "INT"}) {
      sun.misc.Signal.handle(new sun.misc.Signal(name), signal -> told.countDown());
    }
    return told;
  }

  private Events() {}
}
