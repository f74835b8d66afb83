// The story of test_02_node.py: the repository's protos, loaded as they are, over gRPC through the gateway.
// Reads its task as JSON from stdin, prints what it saw as JSON.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const task = JSON.parse(fs.readFileSync(0, 'utf8'));
const definition = loader.loadSync(task.protos, {
  includeDirs: task.includeDirs, longs: String, enums: String, defaults: true, oneofs: true,
});
const animus = grpc.loadPackageDefinition(definition).animus;
const tls = grpc.credentials.createSsl(fs.readFileSync(task.ca));
const bearer = (token) => grpc.credentials.createFromMetadataGenerator((_, done) => {
  const metadata = new grpc.Metadata();
  metadata.set('authorization', `Bearer ${token}`);
  done(null, metadata);
});
const credentials = grpc.credentials.combineChannelCredentials(tls, bearer(task.token));
// Dialled by address, known by name: not every machine's hosts file has localhost.
const NAMED = { 'grpc.ssl_target_name_override': 'localhost', 'grpc.default_authority': 'localhost' };
const client = (Service, how = credentials) => new Service(task.target, how, NAMED);

// A unary call as a promise.
const call = (stub, method, request) => new Promise((resolve, reject) => {
  stub[method](request, { deadline: Date.now() + 30000 }, (error, answer) => error ? reject(error) : resolve(answer));
});
// Every message of a stream.
const all = (stream) => new Promise((resolve, reject) => {
  const messages = [];
  stream.on('data', (message) => messages.push(message));
  stream.on('error', reject);
  stream.on('end', () => resolve(messages));
});
const refusal = (promise) => promise.then(
  () => { throw new Error('was not refused'); },
  (error) => ({ code: grpc.status[error.code], hasDetails: error.metadata.get('grpc-status-details-bin').length > 0 }),
);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function main() {
  const projects = client(animus.catalog.v1.ProjectService);
  const blobs = client(animus.catalog.v1.BlobService);
  const runs = client(animus.orchestrator.v1.RunService);
  const streams = client(animus.orchestrator.v1.RunStreamService);
  const seen = {};

  seen.created = (await call(projects, 'CreateProject', {
    projectId: task.newProject, project: { displayName: 'made from Node' }, requestId: crypto.randomUUID(),
  })).name;
  seen.projects = (await call(projects, 'ListProjects', {})).projects.map((project) => project.name);

  const run = await call(runs, 'CreateRun', {
    parent: task.project, runId: 'from-node', pipelineVersion: task.pipelineVersion,
    bindings: { datasets: [] }, requestId: crypto.randomUUID(),
  });
  const watched = await all(streams.WatchRun({ name: run.name }));
  seen.final = watched[watched.length - 1].final;
  const ended = await call(runs, 'GetRun', { name: run.name });
  seen.state = ended.state;
  if (ended.state !== 'STATE_SUCCEEDED') throw new Error(`${ended.state} ${ended.stateReason} ${ended.stateMessage}`);
  const logs = await all(streams.ReadLogs({ name: `${run.name}/steps/${task.step}/attempts/1`, follow: true }));
  seen.log = Buffer.concat(logs.map((message) => message.data)).toString();

  const step = await call(runs, 'GetStep', { name: `${run.name}/steps/${task.step}` });
  const artifact = step.outputs[0].artifact;
  // The catalog learns of a commit from the log, a moment after the run has ended.
  for (let attempt = 0; ; attempt++) {
    try {
      const parts = await all(blobs.DownloadArtifact({ name: artifact }));
      const content = Buffer.concat(parts.map((part) => part.data));
      seen.bytes = content.length;
      seen.sha256 = crypto.createHash('sha256').update(content).digest('hex');
      break;
    } catch (error) {
      if (error.code !== grpc.status.NOT_FOUND || attempt > 100) throw error;
      await pause(100);
    }
  }

  const nobody = client(animus.catalog.v1.ProjectService, tls);
  const stranger = client(animus.catalog.v1.ProjectService, grpc.credentials.combineChannelCredentials(tls, bearer(task.strangerToken)));
  seen.withoutToken = await refusal(call(nobody, 'ListProjects', {}));
  seen.ofAStranger = await refusal(call(stranger, 'GetProject', { name: task.project }));
  seen.badName = await refusal(call(projects, 'GetProject', { name: 'projects/NOT A NAME' }));
  console.log(JSON.stringify(seen));
}

main().catch((error) => { console.error(error); process.exit(1); });
