// What the client is asked to call, and the calls.
'use strict';

const grpc = require('@grpc/grpc-js');
const { oneOf, pair } = require('./events');

const METHODS = ['UnaryCall', 'EmptyCall', 'StreamingOutputCall'];

class Calls {
  constructor(flags, stub) {
    this.flags = flags;
    this.stub = stub;
    this.method = oneOf('method', flags.method, METHODS);
    this.metadata = flags.metadata.map((text) => pair('metadata', text, ':'));
    this.cookies = new Map();
  }

  // Makes call i; gives the fields of its event that the call itself decides.
  async call(i) {
    const outcome = { code: 'OK', server: '', messages: 0 };
    const seen = { headers: new grpc.Metadata(), trailers: new grpc.Metadata() };
    const status = await this.exchange(i, seen, outcome);
    outcome.code = grpc.status[status.code] ?? 'UNKNOWN';
    seen.trailers = status.metadata ?? seen.trailers;
    if (outcome.code !== 'OK') {
      outcome.message = status.details;
      delete outcome.messages;
    }
    for (const source of [seen.headers, seen.trailers]) {
      if (outcome.server === '') outcome.server = String(source.get('hostname')[0] ?? '');
    }
    this.keepCookies(seen.headers);
    if (this.flags['print-metadata']) {
      outcome.headers = readable(seen.headers);
      outcome.trailers = readable(seen.trailers);
    }
    return outcome;
  }

  // Every method ends with a status, which tells headers and trailers apart.
  exchange(i, seen, outcome) {
    const metadata = this.request(i);
    const options = {};
    if (this.flags['timeout-ms'] > 0) options.deadline = Date.now() + this.flags['timeout-ms'];
    const size = this.flags['payload-size'];
    const payload = size > 0 ? { body: Buffer.alloc(size) } : undefined;
    return new Promise((ended) => {
      const answered = (error, answer) => {
        if (error) return;
        outcome.messages = 1;
        outcome.server = answer.server_id ?? '';
      };
      let call;
      if (this.method === 'EmptyCall') {
        call = this.stub.EmptyCall({}, metadata, options, answered);
      } else if (this.method === 'UnaryCall') {
        const request = { fill_server_id: true, response_size: size, payload };
        call = this.stub.UnaryCall(request, metadata, options, answered);
      } else {
        const wanted = Array(this.flags['stream-messages']).fill({ size });
        const request = { response_parameters: wanted, payload };
        call = this.stub.StreamingOutputCall(request, metadata, options);
        call.on('data', () => { outcome.messages += 1; });
        // The status says it too.
        call.on('error', () => {});
      }
      call.on('metadata', (headers) => { seen.headers = headers; });
      // The answer's callback comes after the status.
      call.on('status', (status) => setImmediate(() => ended(status)));
    });
  }

  // The request metadata of call i.
  request(i) {
    const metadata = new grpc.Metadata({ waitForReady: this.flags['wait-for-ready'] });
    for (const [key, template] of this.metadata) {
      const value = filled(template, i);
      metadata.add(key, key.toLowerCase().endsWith('-bin') ? Buffer.from(value) : value);
    }
    if (this.cookies.size > 0) {
      const all = [...this.cookies].map(([name, value]) => `${name}=${value}`);
      metadata.add('cookie', all.join('; '));
    }
    return metadata;
  }

  // Remembers names and values; paths and ages do not matter to one service.
  keepCookies(headers) {
    if (!this.flags['cookie-jar']) return;
    for (const cookie of headers.get('set-cookie')) {
      const [, name, value] = /^\s*([^=;]+)=([^;]*)/.exec(cookie) ?? [];
      if (name !== undefined) this.cookies.set(name, value);
    }
  }
}

// Puts the call's index, {i}, or its remainder, {i%N}, into a value.
function filled(template, i) {
  return template.replace(/\{i(?:%([0-9]+))?\}/g, (found, n) => {
    if (n === undefined) return String(i);
    return Number(n) === 0 ? found : String(i % Number(n));
  });
}

// Metadata as text; binary values in the base64 in which they travel.
function readable(metadata) {
  const text = {};
  for (const key of Object.keys(metadata.getMap())) {
    const values = metadata.get(key).map((value) =>
      Buffer.isBuffer(value) ? value.toString('base64').replace(/=+$/, '') : value);
    text[key] = values.join(',');
  }
  return text;
}

module.exports = { Calls };
