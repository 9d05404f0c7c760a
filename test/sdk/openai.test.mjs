// The official npm package talks to an agent, unmodified. The Go test beside it starts the node and names it here.
import assert from 'node:assert/strict';
import OpenAI, { NotFoundError, AuthenticationError, APIError, InternalServerError } from 'openai';

const { NIDO_SDK_BASE: baseURL, NIDO_SDK_KEY: apiKey, NIDO_SDK_MODEL: model, NIDO_SDK_WHOLE: whole } = process.env;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const hello = [{ role: 'user', content: 'hola' }];

const reply = await client.chat.completions.create({ model, messages: hello });
assert.equal(reply.choices[0].message.content, whole);
assert.equal(reply.usage.completion_tokens, 7);
assert.match(reply._request_id, /^req_/);

let text = '', usage;
const stream = await client.chat.completions.create({ model, messages: hello, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? '';
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole);
assert.equal(usage.completion_tokens, 7);

const runner = client.chat.completions.stream({ model, messages: hello });
assert.equal(await runner.finalContent(), whole);

await assert.rejects(client.chat.completions.create({ model: 'nobody', messages: hello }),
  (e) => e instanceof NotFoundError && e.status === 404 && e.code === 'agent_not_found' && e.param === 'model' && /^req_/.test(e.requestID));
await assert.rejects(new OpenAI({ baseURL, apiKey: 'sk-other', maxRetries: 0 }).models.list(), AuthenticationError);
await assert.rejects(client.chat.completions.create({ model, messages: [{ role: 'user', content: 'break' }] }),
  (e) => e instanceof InternalServerError && e.code === 'upstream_error');
await assert.rejects(async () => {
  for await (const _ of await client.chat.completions.create({ model, stream: true, messages: [{ role: 'user', content: 'break' }] }));
}, (e) => e instanceof APIError && e.code === 'upstream_error');

const leaving = await client.chat.completions.create({ model, stream: true, messages: [{ role: 'user', content: 'hang' }] });
for await (const chunk of leaving) {
  if (chunk.choices[0]?.delta?.content) break; // aborts the request
}

const models = [];
for await (const one of client.models.list()) models.push(one.id);
assert.deepEqual(models, [model]);
assert.equal((await client.models.retrieve(model)).id, model);
await assert.rejects(client.models.retrieve('nobody'), (e) => e instanceof NotFoundError && e.code === 'agent_not_found');

const short = await client.chat.completions.create({ model, messages: hello, max_tokens: 3 });
assert.equal(short.choices[0].finish_reason, 'length');
