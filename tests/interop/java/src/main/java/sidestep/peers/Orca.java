package sidestep.peers;

import io.grpc.BindableService;
import io.grpc.services.CallMetricRecorder;
import io.grpc.services.MetricRecorder;
import io.grpc.xds.orca.OrcaServiceImpl;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/** What the server says about its load. */
final class Orca {
  /** With an answer. */
  static void record(Flags flags, CallMetricRecorder recorder) {
    recorder.recordCpuUtilizationMetric(flags.number("orca-cpu", 0));
    if (flags.number("orca-app", 0) > 0) {
      recorder.recordApplicationUtilizationMetric(flags.number("orca-app", 0));
    }
    recorder.recordQpsMetric(flags.number("orca-qps", 100));
    recorder.recordEpsMetric(flags.number("orca-eps", 0));
    for (String text : flags.all("orca-named")) {
      String[] pair = Flags.pair("orca-named", text, "=");
      recorder.recordNamedMetric(pair[0], Double.parseDouble(pair[1]));
    }
  }

  /** Without being called for anything else. */
  static BindableService outOfBand(Flags flags) {
    MetricRecorder recorder = MetricRecorder.newInstance();
    recorder.setCpuUtilizationMetric(flags.number("orca-cpu", 0));
    if (flags.number("orca-app", 0) > 0) {
      recorder.setApplicationUtilizationMetric(flags.number("orca-app", 0));
    }
    recorder.setQpsMetric(flags.number("orca-qps", 100));
    recorder.setEpsMetric(flags.number("orca-eps", 0));
    return OrcaServiceImpl.createService(
        Executors.newSingleThreadScheduledExecutor(),
        recorder,
        flags.count("orca-oob-ms", 1000),
        TimeUnit.MILLISECONDS);
  }

  private Orca() {}
}
