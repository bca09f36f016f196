// The server: answers the interop service, plain or meshed.
'use strict';

const net = require('net');
const grpc = require('@grpc/grpc-js');
const xds = require('@grpc/grpc-js-xds');
const { HealthImplementation } = require('grpc-health-check');
const { Behaviour } = require('./behaviour');
const { oneOf, parse, say, terminated } = require('./events');
const { TestService, UNLIMITED, admin, bind } = require('./stubs');

// How long calls in flight may take to end once the process was told to end.
const PATIENCE_MS = 3000;

const DEFAULTS = {
  listen: '127.0.0.1:0',
  id: 'server',
  mode: 'plain',
  'xds-creds': false,
  'fail-first': 0,
  'fail-attempts-below': 0,
  'fail-percent': 0,
  'fail-code': 'UNAVAILABLE',
  'delay-ms': 0,
  orca: 'none',
  'orca-cpu': 0,
  'orca-app': 0,
  'orca-qps': 100,
  'orca-eps': 0,
  'orca-named': [],
  'orca-oob-ms': 1000,
  'log-rpcs': false,
  admin: '',
  'not-serving': false,
};

const payload = (size) => ({ body: Buffer.alloc(size) });
const pause = (ms) => new Promise((over) => { setTimeout(over, ms); });

// The interop service; the ordinary cases ask for most of it.
function testing(flags, behaviour) {
  const unary = (method, answer) => (call, callback) => {
    behaviour.begin(method, call)
      .then(() => answer(call.request))
      .then((message) => callback(null, message, trailers(call)))
      .catch((status) => callback(status));
  };
  const stream = (method, play) => (call) => {
    behaviour.begin(method, echoing(call))
      .then(() => play(call))
      .then(() => call.end(trailers(call)))
      .catch((status) => call.emit('error', status));
  };
  return {
    EmptyCall: unary('EmptyCall', () => ({})),
    UnaryCall: (call, callback) => unary('UnaryCall', (request) => {
      checkStatus(request);
      return { payload: payload(request.response_size), server_id: flags.id, hostname: flags.id };
    })(echoing(call), callback),
    StreamingOutputCall: stream('StreamingOutputCall', (call) => answers(call, call.request)),
    StreamingInputCall(call, callback) {
      let size = 0;
      call.on('data', (request) => { size += request.payload?.body?.length ?? 0; });
      const ended = new Promise((over) => { call.on('end', over); });
      behaviour.begin('StreamingInputCall', call)
        .then(() => ended)
        .then(() => callback(null, { aggregated_payload_size: size }))
        .catch((status) => callback(status));
    },
    FullDuplexCall: stream('FullDuplexCall', async (call) => {
      // Left to itself, the loop would destroy the call before its status is sent.
      for await (const request of call.iterator({ destroyOnReturn: false })) {
        await answers(call, request);
      }
    }),
  };
}

// What the case custom_metadata wants back with the headers.
function echoing(call) {
  const send = call.sendMetadata.bind(call);
  call.sendMetadata = (headers) => {
    const key = 'x-grpc-test-echo-initial';
    for (const value of call.metadata.get(key)) headers.add(key, value);
    send(headers);
  };
  return call;
}

// And with the trailers.
function trailers(call) {
  const metadata = new grpc.Metadata();
  const key = 'x-grpc-test-echo-trailing-bin';
  for (const value of call.metadata.get(key)) metadata.add(key, value);
  return metadata;
}

// Ends the call with the status that the request asks for, if it does.
function checkStatus(request) {
  const { code = 0, message = '' } = request.response_status ?? {};
  if (code !== 0) throw { code, details: message };
}

async function answers(call, request) {
  checkStatus(request);
  for (const wanted of request.response_parameters) {
    if (wanted.interval_us > 0) await pause(wanted.interval_us / 1000);
    if (call.cancelled) return;
    if (!call.write({ payload: payload(wanted.size) })) {
      await new Promise((over) => { call.once('drain', over); call.once('cancelled', over); });
    }
  }
}

// A port that was free a moment ago: a meshed server of grpc-node must be told one.
async function freePort(host) {
  const socket = net.createServer();
  await new Promise((bound) => { socket.listen(0, host, bound); });
  const { port } = socket.address();
  await new Promise((closed) => { socket.close(closed); });
  return port;
}

// Binds a plain server, or has a meshed one wait for its listener; gives the address.
async function listen(server, flags) {
  const at = flags.listen.lastIndexOf(':');
  const host = flags.listen.slice(0, at);
  const insecure = grpc.ServerCredentials.createInsecure();
  if (flags.mode === 'plain') return `${host}:${await bind(server, flags.listen, insecure)}`;
  let port = Number(flags.listen.slice(at + 1));
  if (port === 0) port = await freePort(host.replace(/[[\]]/g, ''));
  const address = `${host}:${port}`;
  const credentials = flags['xds-creds'] ? new xds.XdsServerCredentials(insecure) : insecure;
  server.bindAsync(address, credentials, () => {});
  let before;
  server.addServingStateListener(address, ({ code, details }) => {
    const isServing = code === grpc.status.OK;
    if (before === isServing) return;
    before = isServing;
    const error = isServing ? undefined : details;
    say('serving_mode', { mode: isServing ? 'SERVING' : 'NOT_SERVING', addr: address, error });
  });
  return address;
}

async function main(args) {
  const flags = parse(args, DEFAULTS);
  oneOf('mode', flags.mode, ['plain', 'xds']);
  oneOf('orca', flags.orca, ['none', 'per-request', 'oob', 'both']);
  const behaviour = new Behaviour(flags);
  const recording = flags.orca === 'per-request' || flags.orca === 'both' ? 1 : 0;
  const options = { ...UNLIMITED, 'grpc.server_call_metric_recording': recording };
  const server = flags.mode === 'xds' ? new xds.XdsServer(options) : new grpc.Server(options);
  server.addService(TestService.service, testing(flags, behaviour));
  const state = flags['not-serving'] ? 'NOT_SERVING' : 'SERVING';
  new HealthImplementation({ '': state, 'grpc.testing.TestService': state }).addToServer(server);
  if (flags.orca === 'oob' || flags.orca === 'both') behaviour.addOutOfBand(server);
  const told = terminated();
  const addr = await listen(server, flags);
  say('ready', { addr, id: flags.id, mode: flags.mode, ...(await admin(flags.admin)) });
  await told;
  const stopped = new Promise((over) => { server.tryShutdown(over); });
  await Promise.race([stopped, pause(PATIENCE_MS)]);
  process.exit(0);
}

module.exports = { main };
