// How the server treats calls before it answers them, and what it says about its load.
'use strict';

const grpc = require('@grpc/grpc-js');
const { pair, say } = require('./events');
const { openRca } = require('./stubs');

// What flags and request metadata ask for, applied to each call of the test service.
class Behaviour {
  constructor(flags) {
    this.flags = flags;
    this.count = 0;
    this.code = grpc.status[flags['fail-code']];
    if (this.code === undefined) throw new Error(`--fail-code: no status ${flags['fail-code']}`);
    this.named = flags['orca-named'].map((text) => pair('orca-named', text, '='));
  }

  // Delays or fails the call, then sends the response headers; fails with the status to end with.
  async begin(method, call) {
    this.count += 1;
    const n = this.count;
    const about = new About(call);
    const { flags } = this;
    if (flags['log-rpcs']) say('rpc', { n, method, ...about.event() });
    if (flags.orca === 'per-request' || flags.orca === 'both') this.record(call.getMetricsRecorder());
    await wait(call, flags['delay-ms']);
    const isUnlucky = Math.random() * 100 < flags['fail-percent'];
    if (n <= flags['fail-first'] || about.attempts < flags['fail-attempts-below'] || isUnlucky) {
      throw this.failure(this.code, 'fails on purpose');
    }
    const steps = call.metadata.get('rpc-behavior').flatMap((value) => value.split(','));
    for (const step of steps) {
      if (await this.step(call, about, step.trim())) break;
    }
    const headers = about.echoes();
    headers.set('hostname', flags.id);
    call.sendMetadata(headers);
  }

  // Does one of rpc-behavior; true: what follows is left out.
  async step(call, about, text) {
    const [, host, rest] = /^hostname=(\S*)\s*(.*)$/.exec(text) ?? [undefined, undefined, text];
    if (host !== undefined && host !== this.flags.id) return false;
    if (rest === 'keep-open') await wait(call, 2 ** 31 - 1);
    const [, name, digits] = /^(.*)-([0-9]+)$/.exec(rest) ?? [];
    const number = Number(digits);
    if (name === 'sleep') {
      await wait(call, number * 1000);
    } else if (name === 'error-code') {
      throw this.failure(number, 'fails as rpc-behavior asks');
    } else if (name === 'succeed-on-retry-attempt') {
      return about.attempts === number;
    } else if (rest !== 'keep-open') {
      throw this.failure(grpc.status.INVALID_ARGUMENT, `does not know ${rest}`);
    }
    return false;
  }

  // Sent before any headers, it is an answer of trailers only.
  failure(code, why) {
    const metadata = new grpc.Metadata();
    metadata.set('hostname', this.flags.id);
    return { code, details: `${this.flags.id} ${why}`, metadata };
  }

  record(recorder) {
    recorder.recordCPUUtilizationMetric(this.flags['orca-cpu']);
    recorder.recordApplicationUtilizationMetric(this.flags['orca-app']);
    recorder.recordQpsMetric(this.flags['orca-qps']);
    recorder.recordEpsMetric(this.flags['orca-eps']);
    for (const [name, value] of this.named) recorder.recordNamedMetric(name, Number(value));
  }

  // Reports load without being called for anything else.
  addOutOfBand(server) {
    const { flags } = this;
    const report = {
      cpu_utilization: flags['orca-cpu'],
      application_utilization: flags['orca-app'],
      rps_fractional: flags['orca-qps'],
      eps: flags['orca-eps'],
    };
    server.addService(openRca(), {
      StreamCoreMetrics(call) {
        const { seconds = 0, nanos = 0 } = call.request.report_interval ?? {};
        const wanted = Number(seconds) * 1000 + nanos / 1e6;
        call.write(report);
        const interval = Math.max(wanted, flags['orca-oob-ms'], 1);
        const timer = setInterval(() => call.write(report), interval);
        call.on('cancelled', () => clearInterval(timer));
        call.on('close', () => clearInterval(timer));
      },
    });
  }
}

// Waits, but no longer than for the end of the call.
async function wait(call, ms) {
  if (ms <= 0) return;
  let timer;
  await new Promise((over) => {
    timer = setTimeout(over, ms);
    call.on('cancelled', over);
  });
  clearTimeout(timer);
  if (call.cancelled) throw { code: grpc.status.CANCELLED, details: 'the caller gave up' };
}

// What a request says about itself.
class About {
  constructor(call) {
    this.metadata = call.metadata;
    this.attempts = Number(call.metadata.get('grpc-previous-rpc-attempts')[0] ?? 0);
    const left = Number(call.getDeadline()) - Date.now();
    this.deadline = Number.isFinite(left) ? String(Math.round(left)) : undefined;
    this.authority = call.getHost();
    const names = call.getAuthContext().sslPeerCertificate?.subjectaltname ?? '';
    this.peerSan = /URI:([^,\s]+)/.exec(names)?.[1];
  }

  event() {
    return {
      attempts: this.attempts,
      deadline_ms: this.deadline,
      authority: this.authority,
      peer_san: this.peerSan,
    };
  }

  // The response headers that x-echo asks for; what did not come is not echoed.
  echoes() {
    const special = {
      ':authority': this.authority,
      ':deadline-ms': this.deadline,
      ':attempts': String(this.attempts),
      ':peer-san': this.peerSan,
    };
    const echoes = new grpc.Metadata();
    for (const list of this.metadata.get('x-echo')) {
      for (const part of list.split(',')) {
        const key = part.trim().toLowerCase();
        const values = key in special ? [special[key]] : this.metadata.get(key);
        for (const value of values) {
          if (value !== undefined) echoes.add(`echo-${key.replace(/^:/, '')}`, value);
        }
      }
    }
    return echoes;
  }
}

module.exports = { Behaviour };
