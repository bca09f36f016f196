package sidestep.peers;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.xds.XdsChannelCredentials;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/** The client: calls a target through one channel. */
final class Client {
  private static final String[] KNOWN = {
    "target", "n", "duration-ms", "concurrency", "qps", "method", "stream-messages",
    "payload-size", "timeout-ms", "wait-for-ready!", "creds", "metadata", "cookie-jar!",
    "print-metadata!", "admin", "linger-ms", "authority"
  };

  private final Calls calls;
  private final CountDownLatch told;
  private final long n;
  private final double durationMs;
  private final double qps;
  private final long start = System.nanoTime();
  private final AtomicLong next = new AtomicLong();
  private final Map<String, Long> codes = new TreeMap<>();
  private final Map<String, Long> servers = new TreeMap<>();
  private final List<Double> latencies = new ArrayList<>();

  static void run(String[] args) throws Exception {
    Flags flags = new Flags(args, KNOWN);
    if (!flags.has("target")) {
      throw new IllegalArgumentException("--target is missing");
    }
    CountDownLatch told = Events.terminated();
    var builder = Grpc.newChannelBuilder(flags.text("target", ""), credentials(flags));
    builder.maxInboundMessageSize(Integer.MAX_VALUE);
    if (flags.has("authority")) {
      builder.overrideAuthority(flags.text("authority", ""));
    }
    ManagedChannel channel = builder.build();
    Client client = new Client(flags, new Calls(flags, channel), told);
    Events.say("ready", Server.admin(flags.text("admin", "")));
    client.all((int) Math.max(flags.count("concurrency", 1), 1));
    Events.say("summary", client.summary());
    told.await(flags.count("linger-ms", 0), TimeUnit.MILLISECONDS);
    channel.shutdownNow();
    System.exit(0);
  }

  private Client(Flags flags, Calls calls, CountDownLatch told) {
    this.calls = calls;
    this.told = told;
    n = flags.count("n", 10);
    durationMs = flags.number("duration-ms", 0);
    qps = flags.number("qps", 0);
  }

  private static ChannelCredentials credentials(Flags flags) {
    ChannelCredentials insecure = InsecureChannelCredentials.create();
    return switch (flags.text("creds", "insecure")) {
      case "insecure" -> insecure;
      case "xds" -> XdsChannelCredentials.create(insecure);
      default -> throw new IllegalArgumentException("--creds: neither insecure nor xds");
    };
  }

  /** Makes the calls, some of them at the same time. */
  private void all(int concurrency) throws InterruptedException {
    List<Thread> workers = new ArrayList<>();
    for (int at = 0; at < concurrency; at++) {
      Thread worker = new Thread(this::work);
      worker.setDaemon(true);
      worker.start();
      workers.add(worker);
    }
    for (Thread worker : workers) {
      worker.join();
    }
  }

  private void work() {
    while (true) {
      long i = next.getAndIncrement();
      double at = qps > 0 ? Math.max(elapsed(start), i * 1000 / qps) : elapsed(start);
      if (n > 0 && i >= n || durationMs > 0 && at > durationMs) {
        return;
      }
      try {
        long pause = (long) Math.max((at - elapsed(start)) * 1e6, 0);
        if (told.await(pause, TimeUnit.NANOSECONDS)) {
          return;
        }
      } catch (InterruptedException over) {
        return;
      }
      double startMs = Events.wallClock();
      long begun = System.nanoTime();
      Map<String, Object> outcome = calls.call(i);
      record(i, outcome, startMs, elapsed(begun));
    }
  }

  private static double elapsed(long since) {
    return (System.nanoTime() - since) / 1e6;
  }

  private void record(long i, Map<String, Object> outcome, double startMs, double latency) {
    Map<String, Object> event = new LinkedHashMap<>(outcome);
    event.put("i", i);
    event.put("method", calls.method);
    event.put("latency_ms", latency);
    event.put("start_ms", startMs);
    Events.say("rpc", event);
    synchronized (this) {
      codes.merge((String) outcome.get("code"), 1L, Long::sum);
      if (outcome.get("code").equals("OK")) {
        servers.merge((String) outcome.get("server"), 1L, Long::sum);
      }
      latencies.add(latency);
    }
  }

  private synchronized Map<String, Object> summary() {
    latencies.sort(null);
    Map<String, Object> shares = new LinkedHashMap<>();
    Map<String, Integer> wanted = new HashMap<>(Map.of("p50", 50, "p90", 90, "p99", 99, "max", 100));
    wanted.forEach(
        (name, share) -> {
          int at = Math.min(latencies.size() * share / 100, latencies.size() - 1);
          shares.put(name, at < 0 ? null : latencies.get(at));
        });
    return Map.of(
        "total", latencies.size(),
        "ok", codes.getOrDefault("OK", 0L),
        "codes", codes,
        "servers", servers,
        "latency_ms", shares,
        "elapsed_ms", elapsed(start));
  }
}
