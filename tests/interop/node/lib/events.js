// Events on standard output, and the flags that are answered with one.
'use strict';

const fs = require('fs');
const { parseArgs } = require('util');

// Prints one event as one line; it is out when this returns.
function say(event, fields = {}) {
  const now = performance.timeOrigin + performance.now();
  fs.writeSync(1, `${JSON.stringify({ event, t_ms: now, ...fields })}\n`);
}

// Ends the process over what it was asked.
function refuse(message) {
  say('error', { message });
  process.exit(2);
}

// Reads flags. Their kind is that of their default: a number, a text, a switch (false), a list.
function parse(args, defaults) {
  const options = {};
  for (const [name, value] of Object.entries(defaults)) {
    const type = value === false ? 'boolean' : 'string';
    options[name] = { type, multiple: Array.isArray(value) };
  }
  const { values } = parseArgs({ args: joined(args, options), options });
  const flags = { ...defaults, ...values };
  for (const [name, value] of Object.entries(defaults)) {
    if (typeof value !== 'number') continue;
    flags[name] = Number(flags[name]);
    if (!(flags[name] >= 0 && flags[name] < Infinity)) {
      throw new Error(`--${name}: ${values[name]} is no number that fits`);
    }
  }
  return flags;
}

// `--name -value` becomes `--name=-value`: values may begin with anything.
function joined(args, options) {
  const all = [];
  for (let at = 0; at < args.length; at += 1) {
    const type = options[args[at].replace(/^--/, '')]?.type;
    if (type === 'string' && at + 1 < args.length) {
      all.push(`${args[at]}=${args[at + 1]}`);
      at += 1;
    } else {
      all.push(args[at]);
    }
  }
  return all;
}

// One of several words.
function oneOf(name, value, words) {
  if (!words.includes(value)) throw new Error(`--${name}: ${value} is none of ${words.join(', ')}`);
  return value;
}

// Two texts; only the first separator splits.
function pair(name, text, separator) {
  const at = text.indexOf(separator);
  if (at < 0) throw new Error(`--${name}: ${text} has no ${separator}`);
  return [text.slice(0, at), text.slice(at + separator.length)];
}

// Is fulfilled at SIGTERM or SIGINT.
function terminated() {
  return new Promise((told) => {
    process.once('SIGTERM', told);
    process.once('SIGINT', told);
  });
}

module.exports = { say, refuse, parse, oneOf, pair, terminated };
