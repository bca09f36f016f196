package sidestep.peers;

import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.ForwardingServerCall.SimpleForwardingServerCall;
import io.grpc.Grpc;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.services.CallMetricRecorder;
import java.security.cert.X509Certificate;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import javax.net.ssl.SSLSession;

/** How the server treats calls of the test service before it answers them. */
final class Behaviour implements ServerInterceptor {
  private static final Metadata.Key<String> ECHO_INITIAL = Calls.key("x-grpc-test-echo-initial");
  private static final Metadata.Key<byte[]> ECHO_TRAILING =
      Metadata.Key.of("x-grpc-test-echo-trailing-bin", Metadata.BINARY_BYTE_MARSHALLER);

  private final Flags flags;
  private final String id;
  private final Status failure;
  private final boolean reportsLoad;
  private final AtomicLong count = new AtomicLong();

  Behaviour(Flags flags, String id) {
    this.flags = flags;
    this.id = id;
    failure = Status.fromCode(Status.Code.valueOf(flags.text("fail-code", "UNAVAILABLE")));
    reportsLoad = List.of("per-request", "both").contains(flags.text("orca", "none"));
  }

  @Override
  public <Q, A> ServerCall.Listener<Q> interceptCall(
      ServerCall<Q, A> call, Metadata request, ServerCallHandler<Q, A> next) {
    if (!"grpc.testing.TestService".equals(call.getMethodDescriptor().getServiceName())) {
      return next.startCall(call, request);
    }
    Map<String, String> about = about(call, request);
    long n = count.incrementAndGet();
    if (flags.has("log-rpcs")) {
      Map<String, Object> event = new LinkedHashMap<>();
      event.put("n", n);
      event.put("method", call.getMethodDescriptor().getBareMethodName());
      event.put("attempts", Long.parseLong(about.get(":attempts")));
      event.put("deadline_ms", about.get(":deadline-ms"));
      event.put("authority", about.get(":authority"));
      event.put("peer_san", about.get(":peer-san"));
      Events.say("rpc", event);
    }
    if (reportsLoad) {
      Orca.record(flags, CallMetricRecorder.getCurrent());
    }
    try {
      misbehave(n, about, request);
    } catch (StatusException error) {
      Metadata trailers = new Metadata();
      trailers.put(Calls.key("hostname"), id);
      call.close(error.getStatus(), trailers);
      return new ServerCall.Listener<>() {};
    }
    return next.startCall(named(call, request, echoes(about, request)), request);
  }

  private static <T> void copy(Metadata from, Metadata to, Metadata.Key<T> key) {
    if (from.containsKey(key)) {
      to.put(key, from.get(key));
    }
  }

  /** The call, with these response headers, the server's name, and what custom_metadata wants. */
  private <Q, A> ServerCall<Q, A> named(
      ServerCall<Q, A> call, Metadata request, Metadata echoes) {
    return new SimpleForwardingServerCall<>(call) {
      @Override
      public void sendHeaders(Metadata headers) {
        headers.put(Calls.key("hostname"), id);
        headers.merge(echoes);
        copy(request, headers, ECHO_INITIAL);
        super.sendHeaders(headers);
      }

      @Override
      public void close(Status status, Metadata trailers) {
        copy(request, trailers, ECHO_TRAILING);
        super.close(status, trailers);
      }
    };
  }

  /** What a request says about itself, by the special keys of x-echo. */
  private static Map<String, String> about(ServerCall<?, ?> call, Metadata request) {
    Map<String, String> about = new LinkedHashMap<>();
    about.put(":authority", call.getAuthority());
    Deadline deadline = Context.current().getDeadline();
    if (deadline != null) {
      about.put(":deadline-ms", String.valueOf(deadline.timeRemaining(TimeUnit.MILLISECONDS)));
    }
    String attempts = request.get(Calls.key("grpc-previous-rpc-attempts"));
    about.put(":attempts", attempts == null ? "0" : attempts);
    SSLSession session = call.getAttributes().get(Grpc.TRANSPORT_ATTR_SSL_SESSION);
    if (session != null) {
      try {
        var certificate = (X509Certificate) session.getPeerCertificates()[0];
        for (List<?> name : certificate.getSubjectAlternativeNames()) {
          // 6 is a URI.
          if (name.get(0).equals(6)) {
            about.put(":peer-san", (String) name.get(1));
          }
        }
      } catch (Exception unnamed) {
        // Clients need not show a certificate.
      }
    }
    return about;
  }

  /** The response headers that x-echo asks for; what did not come is not echoed. */
  private static Metadata echoes(Map<String, String> about, Metadata request) {
    Metadata echoes = new Metadata();
    for (String name : split(request, "x-echo")) {
      name = name.toLowerCase(Locale.ROOT);
      if (name.startsWith(":")) {
        String value = about.get(name);
        if (value != null) {
          echoes.put(Calls.key("echo-" + name.substring(1)), value);
        }
      } else if (name.endsWith(Metadata.BINARY_HEADER_SUFFIX)) {
        var all = request.getAll(Metadata.Key.of(name, Metadata.BINARY_BYTE_MARSHALLER));
        for (byte[] value : all == null ? List.<byte[]>of() : all) {
          echoes.put(Metadata.Key.of("echo-" + name, Metadata.BINARY_BYTE_MARSHALLER), value);
        }
      } else {
        var all = request.getAll(Calls.key(name));
        for (String value : all == null ? List.<String>of() : all) {
          echoes.put(Calls.key("echo-" + name), value);
        }
      }
    }
    return echoes;
  }

  private static List<String> split(Metadata request, String name) {
    Iterable<String> all = request.getAll(Calls.key(name));
    String joined = all == null ? "" : String.join(",", all);
    return List.of(joined.split(",")).stream().map(String::trim).filter(s -> !s.isEmpty()).toList();
  }

  /** Delays or fails a call as flags and request metadata ask. */
  private void misbehave(long n, Map<String, String> about, Metadata request)
      throws StatusException {
    pause(flags.count("delay-ms", 0));
    long attempts = Long.parseLong(about.get(":attempts"));
    double luck = ThreadLocalRandom.current().nextDouble() * 100;
    if (n <= flags.count("fail-first", 0)
        || attempts < flags.count("fail-attempts-below", 0)
        || luck < flags.number("fail-percent", 0)) {
      throw failed(failure, "fails on purpose");
    }
    for (String step : split(request, "rpc-behavior")) {
      if (step(step, attempts)) {
        return;
      }
    }
  }

  private StatusException failed(Status status, String why) {
    return status.withDescription(id + " " + why).asException();
  }

  /** Does one of rpc-behavior; true: what follows is left out. */
  private boolean step(String step, long attempts) throws StatusException {
    if (step.startsWith("hostname=")) {
      String[] parts = step.substring("hostname=".length()).split(" ", 2);
      if (!parts[0].equals(id)) {
        return false;
      }
      step = parts.length > 1 ? parts[1].trim() : "";
    }
    if (step.equals("keep-open")) {
      pause(Long.MAX_VALUE);
      return false;
    }
    int at = step.lastIndexOf('-');
    String name = at < 0 ? "" : step.substring(0, at);
    int number;
    try {
      number = Integer.parseInt(step.substring(at + 1));
    } catch (NumberFormatException none) {
      throw failed(Status.INVALID_ARGUMENT, "does not know " + step);
    }
    switch (name) {
      case "sleep" -> pause(number * 1000L);
      case "error-code" ->
          throw failed(Status.fromCodeValue(number), "fails as rpc-behavior asks");
      case "succeed-on-retry-attempt" -> {
        return attempts == number;
      }
      default -> throw failed(Status.INVALID_ARGUMENT, "does not know " + step);
    }
    return false;
  }

  /** Waits, but no longer than for the end of the call. */
  private static void pause(long ms) throws StatusException {
    if (ms <= 0) {
      return;
    }
    CountDownLatch over = new CountDownLatch(1);
    Context context = Context.current();
    context.addListener(cancelled -> over.countDown(), Runnable::run);
    try {
      if (over.await(ms, TimeUnit.MILLISECONDS)) {
        throw Status.CANCELLED.withDescription("the caller gave up").asException();
      }
    } catch (InterruptedException stopped) {
      throw Status.CANCELLED.withDescription("the server stops").asException();
    }
  }
}
