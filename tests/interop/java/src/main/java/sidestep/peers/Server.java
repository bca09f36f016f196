package sidestep.peers;

import io.grpc.BindableService;
import io.grpc.InsecureServerCredentials;
import io.grpc.ServerBuilder;
import io.grpc.ServerCredentials;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.protobuf.services.HealthStatusManager;
import io.grpc.services.AdminInterface;
import io.grpc.xds.XdsServerBuilder;
import io.grpc.xds.XdsServerCredentials;
import io.grpc.xds.orca.OrcaMetricReportingServerInterceptor;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** The server: answers the interop service, plain or meshed. */
final class Server {
  /** How long calls in flight may take to end once the process was told to end. */
  private static final long PATIENCE_SECONDS = 3;

  private static final String[] KNOWN = {
    "listen", "id", "mode", "xds-creds!", "fail-first", "fail-attempts-below", "fail-percent",
    "fail-code", "delay-ms", "orca", "orca-cpu", "orca-app", "orca-qps", "orca-eps", "orca-named",
    "orca-oob-ms", "log-rpcs!", "admin", "not-serving!"
  };

  static void run(String[] args) throws Exception {
    Flags flags = new Flags(args, KNOWN);
    String id = flags.text("id", "server");
    String mode = flags.text("mode", "plain");
    String orca = flags.text("orca", "none");
    if (!List.of("none", "per-request", "oob", "both").contains(orca)) {
      throw new IllegalArgumentException("--orca: no mode " + orca);
    }
    CountDownLatch told = Events.terminated();
    String listen = flags.text("listen", "127.0.0.1:0");
    String host = listen.substring(0, listen.lastIndexOf(':'));
    int port = Integer.parseInt(listen.substring(listen.lastIndexOf(':') + 1));
    ServerBuilder<?> builder =
        switch (mode) {
          case "plain" -> plain(host, port);
          case "xds" -> {
            port = port == 0 ? freePort() : port;
            yield meshed(host + ":" + port, port, flags.has("xds-creds"));
          }
          default -> throw new IllegalArgumentException("--mode: neither plain nor xds");
        };
    builder.addService(new Testing(id)).addService(health(flags)).maxInboundMessageSize(1 << 30);
    if (List.of("oob", "both").contains(orca)) {
      builder.addService(Orca.outOfBand(flags));
    }
    // The last one comes first.
    builder.intercept(new Behaviour(flags, id));
    builder.intercept(OrcaMetricReportingServerInterceptor.getInstance());
    io.grpc.Server server = builder.build();
    Map<String, Object> ready = new LinkedHashMap<>(Map.of("id", id, "mode", mode));
    ready.putAll(admin(flags.text("admin", "")));
    if (mode.equals("plain")) {
      port = server.start().getPort();
    }
    ready.put("addr", host + ":" + port);
    Events.say("ready", ready);
    if (mode.equals("xds")) {
      start(server);
    }
    told.await();
    server.shutdown();
    if (!server.awaitTermination(PATIENCE_SECONDS, TimeUnit.SECONDS)) {
      server.shutdownNow();
    }
    System.exit(0);
  }

  private static ServerBuilder<?> plain(String host, int port) {
    var address = new InetSocketAddress(host.replaceAll("[\\[\\]]", ""), port);
    return NettyServerBuilder.forAddress(address, InsecureServerCredentials.create());
  }

  /** A meshed server of grpc-java listens on every address of the machine. */
  private static ServerBuilder<?> meshed(String address, int port, boolean isSecure) {
    ServerCredentials insecure = InsecureServerCredentials.create();
    var credentials = isSecure ? XdsServerCredentials.create(insecure) : insecure;
    return XdsServerBuilder.forPort(port, credentials)
        .xdsServingStatusListener(
            new XdsServerBuilder.XdsServingStatusListener() {
              @Override
              public void onServing() {
                Events.say("serving_mode", Map.of("mode", "SERVING", "addr", address));
              }

              @Override
              public void onNotServing(Throwable why) {
                Events.say(
                    "serving_mode",
                    Map.of("mode", "NOT_SERVING", "addr", address, "error", "" + why.getMessage()));
              }
            });
  }

  /** Comes back once it serves, or not at all: whoever wants to end does not wait for it. */
  private static void start(io.grpc.Server server) {
    Thread starting =
        new Thread(
            () -> {
              try {
                server.start();
              } catch (Exception error) {
                Events.refuse(String.valueOf(error.getMessage()));
              }
            });
    starting.setDaemon(true);
    starting.start();
  }

  private static int freePort() throws Exception {
    try (ServerSocket free = new ServerSocket(0)) {
      return free.getLocalPort();
    }
  }

  private static BindableService health(Flags flags) {
    HealthStatusManager manager = new HealthStatusManager();
    var state = flags.has("not-serving") ? ServingStatus.NOT_SERVING : ServingStatus.SERVING;
    manager.setStatus("", state);
    manager.setStatus("grpc.testing.TestService", state);
    return manager.getHealthService();
  }

  /** Serves CSDS and channelz at an address; the ready event says where. */
  static Map<String, Object> admin(String listen) throws Exception {
    if (listen.isEmpty()) {
      return Map.of();
    }
    String host = listen.substring(0, listen.lastIndexOf(':'));
    int port = Integer.parseInt(listen.substring(listen.lastIndexOf(':') + 1));
    var server = plain(host, port).addServices(AdminInterface.getStandardServices()).build();
    return Map.of("admin", host + ":" + server.start().getPort());
  }

  private Server() {}
}
