package sidestep.peers;

import com.google.protobuf.ByteString;
import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.MetadataUtils;
import io.grpc.testing.integration.EmptyProtos;
import io.grpc.testing.integration.Messages;
import io.grpc.testing.integration.TestServiceGrpc;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.regex.Pattern;

/** What the client is asked to call, and the calls. */
final class Calls {
  static final List<String> METHODS = List.of("UnaryCall", "EmptyCall", "StreamingOutputCall");
  private static final Pattern INDEX = Pattern.compile("\\{i(?:%([0-9]+))?\\}");

  final String method;
  private final Flags flags;
  private final Channel channel;
  private final int size;
  private final Map<String, String> cookies = new ConcurrentHashMap<>();

  Calls(Flags flags, Channel channel) {
    this.flags = flags;
    this.channel = channel;
    method = flags.text("method", "UnaryCall");
    size = (int) flags.count("payload-size", 0);
    if (!METHODS.contains(method)) {
      throw new IllegalArgumentException("--method: no method " + method);
    }
  }

  /** Makes call i; the fields of its event that the call itself decides. */
  Map<String, Object> call(long i) {
    Map<String, Object> outcome = new LinkedHashMap<>();
    AtomicReference<Metadata> headers = new AtomicReference<>();
    AtomicReference<Metadata> trailers = new AtomicReference<>();
    Status status = Status.OK;
    String[] server = {""};
    int[] messages = {0};
    try {
      exchange(stub(i, headers, trailers), server, messages);
      outcome.put("messages", messages[0]);
    } catch (StatusRuntimeException error) {
      status = error.getStatus();
      outcome.put("message", String.valueOf(status.getDescription()));
    }
    Metadata first = headers.get() == null ? new Metadata() : headers.get();
    Metadata last = trailers.get() == null ? new Metadata() : trailers.get();
    for (Metadata source : new Metadata[] {first, last}) {
      String name = source.get(key("hostname"));
      server[0] = server[0].isEmpty() && name != null ? name : server[0];
    }
    keepCookies(first);
    outcome.put("code", status.getCode().name());
    outcome.put("server", server[0]);
    if (flags.has("print-metadata")) {
      outcome.put("headers", readable(first));
      outcome.put("trailers", readable(last));
    }
    return outcome;
  }

  private TestServiceGrpc.TestServiceBlockingStub stub(
      long i, AtomicReference<Metadata> headers, AtomicReference<Metadata> trailers) {
    Channel intercepted =
        ClientInterceptors.intercept(
            channel,
            MetadataUtils.newAttachHeadersInterceptor(metadata(i)),
            MetadataUtils.newCaptureMetadataInterceptor(headers, trailers));
    var stub = TestServiceGrpc.newBlockingStub(intercepted);
    long timeout = flags.count("timeout-ms", 10000);
    if (timeout > 0) {
      stub = stub.withDeadlineAfter(timeout, TimeUnit.MILLISECONDS);
    }
    return flags.has("wait-for-ready") ? stub.withWaitForReady() : stub;
  }

  private void exchange(
      TestServiceGrpc.TestServiceBlockingStub stub, String[] server, int[] messages) {
    switch (method) {
      case "EmptyCall" -> {
        stub.emptyCall(EmptyProtos.Empty.getDefaultInstance());
        messages[0] = 1;
      }
      case "UnaryCall" -> {
        var request = Messages.SimpleRequest.newBuilder();
        request.setFillServerId(true).setResponseSize(size).setPayload(payload(size));
        server[0] = stub.unaryCall(request.build()).getServerId();
        messages[0] = 1;
      }
      default -> {
        var request = Messages.StreamingOutputCallRequest.newBuilder().setPayload(payload(size));
        for (long n = flags.count("stream-messages", 3); n > 0; n--) {
          request.addResponseParameters(Messages.ResponseParameters.newBuilder().setSize(size));
        }
        Iterator<?> answers = stub.streamingOutputCall(request.build());
        while (answers.hasNext()) {
          answers.next();
          messages[0]++;
        }
      }
    }
  }

  static Messages.Payload payload(int size) {
    return Messages.Payload.newBuilder().setBody(ByteString.copyFrom(new byte[size])).build();
  }

  /** The request metadata of call i. */
  private Metadata metadata(long i) {
    Metadata metadata = new Metadata();
    for (String text : flags.all("metadata")) {
      String[] pair = Flags.pair("metadata", text, ":");
      String name = pair[0].toLowerCase(Locale.ROOT);
      String value = filled(pair[1], i);
      if (name.endsWith(Metadata.BINARY_HEADER_SUFFIX)) {
        metadata.put(
            Metadata.Key.of(name, Metadata.BINARY_BYTE_MARSHALLER),
            value.getBytes(StandardCharsets.UTF_8));
      } else {
        metadata.put(key(name), value);
      }
    }
    if (!cookies.isEmpty()) {
      var all = cookies.entrySet().stream().map(each -> each.getKey() + "=" + each.getValue());
      metadata.put(key("cookie"), String.join("; ", all.toList()));
    }
    return metadata;
  }

  /** Remembers names and values; paths and ages do not matter to one service. */
  private void keepCookies(Metadata headers) {
    Iterable<String> all = headers.getAll(key("set-cookie"));
    if (all == null || !flags.has("cookie-jar")) {
      return;
    }
    for (String cookie : all) {
      String[] pair = cookie.split(";", 2)[0].split("=", 2);
      cookies.put(pair[0].trim(), pair.length > 1 ? pair[1] : "");
    }
  }

  /** Puts the call's index, {i}, or its remainder, {i%N}, into a value. */
  private static String filled(String template, long i) {
    return INDEX
        .matcher(template)
        .replaceAll(
            found -> {
              long n = found.group(1) == null ? Long.MAX_VALUE : Long.parseLong(found.group(1));
              return n == 0 ? found.group() : String.valueOf(i % n);
            });
  }

  static Metadata.Key<String> key(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }

  /** Metadata as text; binary values in the base64 in which they travel. */
  private static Map<String, String> readable(Metadata metadata) {
    Map<String, String> text = new TreeMap<>();
    for (String name : metadata.keys()) {
      if (name.endsWith(Metadata.BINARY_HEADER_SUFFIX)) {
        var base64 = Base64.getEncoder().withoutPadding();
        for (byte[] value :
            metadata.getAll(Metadata.Key.of(name, Metadata.BINARY_BYTE_MARSHALLER))) {
          text.merge(name, base64.encodeToString(value), (a, b) -> a + "," + b);
        }
      } else {
        for (String value : metadata.getAll(key(name))) {
          text.merge(name, value, (a, b) -> a + "," + b);
        }
      }
    }
    return text;
  }
}
