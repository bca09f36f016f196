// The interop service and what else is served, made of their descriptions.
'use strict';

const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const xds = require('@grpc/grpc-js-xds');

xds.register();

const OPTIONS = { keepCase: true, defaults: true, longs: Number };
const UNLIMITED = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 };

function load(file, includeDirs) {
  return grpc.loadPackageDefinition(loader.loadSync(file, { ...OPTIONS, includeDirs }));
}

const protos = path.join(__dirname, '../../protos');
const { TestService } = load('grpc/testing/test.proto', [protos]).grpc.testing;

// The descriptions that grpc-js has with it.
function openRca() {
  const home = path.join(path.dirname(require.resolve('@grpc/grpc-js/package.json')), 'proto');
  const dirs = ['xds', 'protoc-gen-validate'].map((folder) => path.join(home, folder));
  return load('xds/service/orca/v3/orca.proto', dirs).xds.service.orca.v3.OpenRcaService.service;
}

// Serves CSDS and channelz at an address; the ready event says where.
async function admin(address) {
  if (address === '') return {};
  const server = new grpc.Server();
  grpc.addAdminServicesToServer(server);
  const port = await bind(server, address, grpc.ServerCredentials.createInsecure());
  return { admin: `${address.slice(0, address.lastIndexOf(':'))}:${port}` };
}

function bind(server, address, credentials) {
  return new Promise((bound, failed) => {
    server.bindAsync(address, credentials, (error, port) => (error ? failed(error) : bound(port)));
  });
}

module.exports = { TestService, UNLIMITED, openRca, admin, bind };
