// The client: calls a target through one channel.
'use strict';

const grpc = require('@grpc/grpc-js');
const xds = require('@grpc/grpc-js-xds');
const { Calls } = require('./calls');
const { oneOf, parse, say, terminated } = require('./events');
const { TestService, UNLIMITED, admin } = require('./stubs');

const DEFAULTS = {
  target: '',
  n: 10,
  'duration-ms': 0,
  concurrency: 1,
  qps: 0,
  method: 'UnaryCall',
  'stream-messages': 3,
  'payload-size': 0,
  'timeout-ms': 10000,
  'wait-for-ready': false,
  creds: 'insecure',
  metadata: [],
  'cookie-jar': false,
  'print-metadata': false,
  admin: '',
  'linger-ms': 0,
  authority: '',
};

class Run {
  constructor(flags, calls, told) {
    Object.assign(this, { flags, calls, next: 0, isTold: false, start: performance.now() });
    Object.assign(this, { codes: {}, servers: {}, latencies: [] });
    this.told = told.then(() => { this.isTold = true; });
  }

  // Makes the calls, some of them at the same time.
  all() {
    const workers = Array.from({ length: Math.max(this.flags.concurrency, 1) }, () => this.work());
    return Promise.all(workers);
  }

  async work() {
    const { n, qps, 'duration-ms': duration } = this.flags;
    for (;;) {
      const i = this.next;
      this.next += 1;
      let start = performance.now() - this.start;
      if (qps > 0) start = Math.max(start, (i * 1000) / qps);
      if ((n > 0 && i >= n) || (duration > 0 && start > duration)) return;
      await pause(this.start + start - performance.now(), this.told);
      if (this.isTold) return;
      const begun = performance.now();
      const outcome = await this.calls.call(i);
      this.record(i, outcome, performance.timeOrigin + begun, performance.now() - begun);
    }
  }

  record(i, outcome, start_ms, latency_ms) {
    say('rpc', { i, method: this.flags.method, latency_ms, start_ms, ...outcome });
    this.codes[outcome.code] = (this.codes[outcome.code] ?? 0) + 1;
    if (outcome.code === 'OK') {
      this.servers[outcome.server] = (this.servers[outcome.server] ?? 0) + 1;
    }
    this.latencies.push(latency_ms);
  }

  summary() {
    const sorted = this.latencies.sort((a, b) => a - b);
    const at = (share) =>
      sorted[Math.min(Math.floor((sorted.length * share) / 100), sorted.length - 1)] ?? null;
    return {
      total: sorted.length,
      ok: this.codes.OK ?? 0,
      codes: this.codes,
      servers: this.servers,
      latency_ms: { p50: at(50), p90: at(90), p99: at(99), max: at(100) },
      elapsed_ms: performance.now() - this.start,
    };
  }
}

// Waits so long, or until the process is told to end.
async function pause(ms, told) {
  if (ms <= 0) return;
  let timer;
  await Promise.race([told, new Promise((over) => { timer = setTimeout(over, ms); })]);
  clearTimeout(timer);
}

async function main(args) {
  const flags = parse(args, DEFAULTS);
  if (flags.target === '') throw new Error('--target is missing');
  let credentials = grpc.credentials.createInsecure();
  if (oneOf('creds', flags.creds, ['insecure', 'xds']) === 'xds') {
    credentials = new xds.XdsChannelCredentials(credentials);
  }
  const options = { ...UNLIMITED };
  if (flags.authority !== '') options['grpc.default_authority'] = flags.authority;
  const stub = new TestService(flags.target, credentials, options);
  const calls = new Calls(flags, stub);
  const told = terminated();
  say('ready', await admin(flags.admin));
  const run = new Run(flags, calls, told);
  await run.all();
  say('summary', run.summary());
  await pause(flags['linger-ms'], told);
  stub.close();
  process.exit(0);
}

module.exports = { main };
