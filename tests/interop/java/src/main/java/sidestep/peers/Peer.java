package sidestep.peers;

import java.util.Arrays;
import java.util.logging.Level;
import java.util.logging.Logger;

/**
 * Peers on grpc-java for the interop suite, on the contract of our own interop programs: {@code
 * client|server [flags]}. One JSON object per line on standard output.
 */
public final class Peer {
  public static void main(String[] args) {
    Logger.getLogger("").setLevel(Level.INFO);
    String verb = args.length > 0 ? args[0] : "";
    String[] rest = args.length > 0 ? Arrays.copyOfRange(args, 1, args.length) : args;
    try {
      switch (verb) {
        case "client" -> Client.run(rest);
        case "server" -> Server.run(rest);
        default -> Events.refuse("usage: peer.jar client|server [flags]");
      }
    } catch (Exception error) {
      Events.refuse(String.valueOf(error.getMessage()));
    }
  }

  private Peer() {}
}
