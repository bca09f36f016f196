package sidestep.peers;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Flags of the contract: {@code --name value}, {@code --name=value}, or a switch. */
final class Flags {
  private final Map<String, List<String>> values = new HashMap<>();

  /** Reads flags; those whose names end in {@code !} take no value. */
  Flags(String[] args, String... known) {
    List<String> names = List.of(known);
    for (int at = 0; at < args.length; at++) {
      String[] parts = args[at].split("=", 2);
      String name = parts[0].startsWith("--") ? parts[0].substring(2) : "";
      boolean isSwitch = names.contains(name + "!");
      if (!isSwitch && !names.contains(name)) {
        throw new IllegalArgumentException("unknown argument " + args[at]);
      }
      String value = "";
      if (parts.length > 1) {
        value = parts[1];
      } else if (!isSwitch && ++at < args.length) {
        value = args[at];
      } else if (!isSwitch) {
        throw new IllegalArgumentException("--" + name + " has no value");
      }
      values.computeIfAbsent(name, unused -> new ArrayList<>()).add(value);
    }
  }

  boolean has(String name) {
    return values.containsKey(name);
  }

  List<String> all(String name) {
    return values.getOrDefault(name, List.of());
  }

  String text(String name, String other) {
    List<String> all = all(name);
    return all.isEmpty() ? other : all.get(all.size() - 1);
  }

  double number(String name, double other) {
    String text = text(name, "");
    double value = text.isEmpty() ? other : Double.parseDouble(text);
    if (!(value >= 0) || Double.isInfinite(value)) {
      throw new IllegalArgumentException("--" + name + ": " + text + " is no number that fits");
    }
    return value;
  }

  long count(String name, long other) {
    return (long) number(name, other);
  }

  /** Two texts; only the first separator splits. */
  static String[] pair(String name, String text, String separator) {
    int at = text.indexOf(separator);
    if (at < 0) {
      throw new IllegalArgumentException("--" + name + ": " + text + " has no " + separator);
    }
    return new String[] {text.substring(0, at), text.substring(at + separator.length())};
  }
}
