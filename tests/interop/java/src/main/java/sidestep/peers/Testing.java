package sidestep.peers;

import io.grpc.Status;
import io.grpc.stub.StreamObserver;
import io.grpc.testing.integration.EmptyProtos.Empty;
import io.grpc.testing.integration.Messages.EchoStatus;
import io.grpc.testing.integration.Messages.ResponseParameters;
import io.grpc.testing.integration.Messages.SimpleRequest;
import io.grpc.testing.integration.Messages.SimpleResponse;
import io.grpc.testing.integration.Messages.StreamingInputCallRequest;
import io.grpc.testing.integration.Messages.StreamingInputCallResponse;
import io.grpc.testing.integration.Messages.StreamingOutputCallRequest;
import io.grpc.testing.integration.Messages.StreamingOutputCallResponse;
import io.grpc.testing.integration.TestServiceGrpc;

/** The interop service; the ordinary cases ask for most of it. */
final class Testing extends TestServiceGrpc.TestServiceImplBase {
  private final String id;

  Testing(String id) {
    this.id = id;
  }

  @Override
  public void emptyCall(Empty request, StreamObserver<Empty> answers) {
    answers.onNext(request);
    answers.onCompleted();
  }

  @Override
  public void unaryCall(SimpleRequest request, StreamObserver<SimpleResponse> answers) {
    if (fails(request.getResponseStatus(), answers)) {
      return;
    }
    var answer = SimpleResponse.newBuilder().setServerId(id).setHostname(id);
    answers.onNext(answer.setPayload(Calls.payload(request.getResponseSize())).build());
    answers.onCompleted();
  }

  @Override
  public void streamingOutputCall(
      StreamingOutputCallRequest request, StreamObserver<StreamingOutputCallResponse> answers) {
    if (answer(request, answers)) {
      answers.onCompleted();
    }
  }

  @Override
  public StreamObserver<StreamingInputCallRequest> streamingInputCall(
      StreamObserver<StreamingInputCallResponse> answers) {
    return new Requests<>() {
      private int size;

      @Override
      public void onNext(StreamingInputCallRequest request) {
        size += request.getPayload().getBody().size();
      }

      @Override
      public void onCompleted() {
        var answer = StreamingInputCallResponse.newBuilder().setAggregatedPayloadSize(size);
        answers.onNext(answer.build());
        answers.onCompleted();
      }
    };
  }

  @Override
  public StreamObserver<StreamingOutputCallRequest> fullDuplexCall(
      StreamObserver<StreamingOutputCallResponse> answers) {
    return new Requests<>() {
      private boolean isOver;

      @Override
      public void onNext(StreamingOutputCallRequest request) {
        isOver = isOver || !answer(request, answers);
      }

      @Override
      public void onCompleted() {
        if (!isOver) {
          answers.onCompleted();
        }
      }
    };
  }

  /** False: the request asked for a failure, and it has been sent. */
  private static boolean answer(
      StreamingOutputCallRequest request, StreamObserver<StreamingOutputCallResponse> answers) {
    if (fails(request.getResponseStatus(), answers)) {
      return false;
    }
    for (ResponseParameters wanted : request.getResponseParametersList()) {
      var answer = StreamingOutputCallResponse.newBuilder();
      answers.onNext(answer.setPayload(Calls.payload(wanted.getSize())).build());
    }
    return true;
  }

  private static boolean fails(EchoStatus wanted, StreamObserver<?> answers) {
    if (wanted.getCode() == 0) {
      return false;
    }
    Status status = Status.fromCodeValue(wanted.getCode());
    answers.onError(status.withDescription(wanted.getMessage()).asException());
    return true;
  }

  /** Requests whose failure is nothing to answer. */
  private abstract static class Requests<T> implements StreamObserver<T> {
    @Override
    public void onError(Throwable error) {}
  }
}
