// Writes the kpl-node-* fixtures: `npm install aws-kinesis-agg@4.2.8`, then
// `node kpl-node.js DIRECTORY` from where it was installed.
'use strict';
const fs = require('fs');
const path = require('path');
const { createRequire } = require('module');
const { RecordAggregator } = createRequire(path.join(process.cwd(), 'x'))('aws-kinesis-agg');

const cases = {
  // Keys that repeat, a key that is not ASCII, an empty payload, bytes that are not text.
  keys: Array.from({ length: 40 }, (_, i) => ({
    partitionKey: i % 7 === 0 ? 'clé' : `key-${i % 5}`,
    data: i === 3 ? Buffer.alloc(0) : Buffer.from([i, 0, 255, 10, ...Buffer.from(`{"n":${i}}`)]),
  })),
  // Explicit hash keys in both halves of the key space, beside records without one. The encoder
  // takes its table from the keys of an object, which JavaScript sorts if they are small numbers.
  explicit: Array.from({ length: 30 }, (_, i) => ({
    partitionKey: `key-${i}`,
    explicitHashKey: i % 3 === 2 ? undefined
      : (i % 3 === 0 ? (1n << 64n) + BigInt(i) : (1n << 127n) + BigInt(i)).toString(),
    data: Buffer.from(`record ${i}`),
  })),
  // Lengths that need varints of two and three bytes.
  long: Array.from({ length: 60 }, (_, i) => ({
    partitionKey: 'k'.repeat(1 + 3 * i),
    data: Buffer.alloc((i * 37) % 200 + (i === 59 ? 17000 : 0), 97 + (i % 26)),
  })),
  one: [{ partitionKey: 'only', data: Buffer.from('single') }],
};

for (const [name, users] of Object.entries(cases)) {
  const aggregator = new RecordAggregator();
  users.forEach((user) => aggregator.addUserRecord(user));
  const { data } = aggregator.build();
  const file = path.join(process.argv[2], `kpl-node-${name}`);
  fs.writeFileSync(`${file}.bin`, data);
  const shown = users.map((u) => [u.partitionKey, u.explicitHashKey || null, u.data.toString('hex')]);
  fs.writeFileSync(`${file}.json`, JSON.stringify(shown) + '\n');
}
