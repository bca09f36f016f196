// A caller in JavaScript.
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const xds = require('@grpc/grpc-js-xds');
const { promisify } = require('util');

xds.register();
const { hello } = grpc.loadPackageDefinition(loader.loadSync(`${__dirname}/../protos/hello.proto`));
const credentials = new xds.XdsChannelCredentials(grpc.credentials.createInsecure());
const greeter = new hello.Greeter('xds:///greeter', credentials);
(async () => {
  for (let call = 0; call < 4; call += 1) {
    const reply = await promisify(greeter.SayHello).call(greeter, { name: 'JavaScript' });
    console.log(`${reply.message} (from ${reply.server})`);
  }
})().finally(() => process.exit());
