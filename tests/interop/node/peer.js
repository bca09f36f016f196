// Peers on grpc-node for the interop suite, on the contract of our own interop programs:
// `peer.js client|server [flags]`. One JSON object per line on standard output.
'use strict';

const { refuse } = require('./lib/events');

const VERBS = { client: './lib/client', server: './lib/server' };

const verb = VERBS[process.argv[2]];
if (verb === undefined) {
  refuse(`usage: peer.js ${Object.keys(VERBS).join('|')} [flags]`);
}
const refuseError = (error) => refuse(error.message);
process.on('uncaughtException', refuseError);
require(verb).main(process.argv.slice(3)).catch(refuseError);
