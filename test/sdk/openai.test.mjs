// The official npm package talks to an agent, unmodified. The Go test beside it starts the node and names it here.
import assert from 'node:assert/strict';
import OpenAI, { APIError, APIUserAbortError, AuthenticationError, BadRequestError, InternalServerError, NotFoundError, RateLimitError } from 'openai';

const { NIDO_SDK_BASE: baseURL, NIDO_SDK_KEY: apiKey, NIDO_SDK_MODEL: model, NIDO_SDK_LIMITED: limited, NIDO_SDK_SPENT: spent, NIDO_SDK_WHOLE: whole } = process.env;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const hello = [{ role: 'user', content: 'hola' }];

const reply = await client.chat.completions.create({ model, messages: hello });
assert.equal(reply.choices[0].message.content, whole);
assert.equal(reply.usage.completion_tokens, 7);
assert.match(reply._request_id, /^req_/);

const told = await client.chat.completions.create({
  model, messages: [{ role: 'developer', content: 'Sé breve.' }, ...hello], user: 'ana', metadata: { conversation_id: 'sdk-npm', team: 'ventas' },
  stop: ['FIN', 'END'], max_tokens: 50, temperature: 0.25, seed: 7, tools: [], response_format: { type: 'text' },
});
assert.equal(told.choices[0].message.content, whole);
assert.equal(told.choices[0].finish_reason, 'stop');
assert.equal(told.metadata.conversation_id, 'sdk-npm');

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

await assert.rejects(client.chat.completions.create({ model, messages: hello, temperature: 3 }),
  (e) => e instanceof BadRequestError && e.code === 'invalid_request' && e.param === 'temperature');

// An agent of one message a minute: a refusal is the SDK's own, and it comes again when it is told to.
await client.chat.completions.create({ model: limited, messages: hello });
await assert.rejects(client.chat.completions.create({ model: limited, messages: hello }), (e) => {
  assert.ok(e instanceof RateLimitError && e.code === 'rate_limited' && e.type === 'rate_limit_error');
  const seconds = Number(e.headers.get('retry-after'));
  return seconds > 30 && seconds <= 61 && Math.abs(Number(e.headers.get('retry-after-ms')) - seconds * 1000) <= 1000;
});
const times = [];
const patient = new OpenAI({
  baseURL, apiKey, maxRetries: 1,
  fetch: async (...args) => {
    times.push(Date.now());
    const answer = await fetch(...args);
    const headers = new Headers(answer.headers);
    assert.ok(headers.has('retry-after-ms'));
    headers.set('retry-after-ms', '1700'); // not the whole minute, and longer than it waits by itself
    return new Response(answer.body, { status: answer.status, headers });
  },
});
await assert.rejects(patient.chat.completions.create({ model: limited, messages: hello }), RateLimitError);
assert.equal(times.length, 2);
assert.ok(times[1] - times[0] >= 1650 && times[1] - times[0] < 2600, `came again after ${times[1] - times[0]} ms`);

// An agent of one message a day: the wait until midnight is told at once, also by a client that may come again.
const lasting = new OpenAI({ baseURL, apiKey, maxRetries: 2, timeout: 5000 });
await lasting.chat.completions.create({ model: spent, messages: hello });
const asked = Date.now();
await assert.rejects(Promise.race([
  lasting.chat.completions.create({ model: spent, messages: hello }),
  new Promise((_, reject) => setTimeout(() => reject(new Error('the client sleeps')), 5000).unref()),
]), (e) => e instanceof RateLimitError && e.code === 'rate_limited');
assert.ok(Date.now() - asked < 4000);

const giving = new AbortController();
setTimeout(() => giving.abort(), 200);
await assert.rejects(client.chat.completions.create({ model, messages: [{ role: 'user', content: 'hang' }] }, { signal: giving.signal }), APIUserAbortError);

const leaving = await client.chat.completions.create({ model, stream: true, messages: [{ role: 'user', content: 'hang' }] });
for await (const chunk of leaving) {
  if (chunk.choices[0]?.delta?.content) break; // aborts the request
}

const models = [];
for await (const one of client.models.list()) models.push(one.id);
assert.ok(models.includes(model));
assert.equal((await client.models.retrieve(model)).id, model);
assert.equal((await client.models.retrieve(model)).id, model);
await assert.rejects(client.models.retrieve('nobody'), (e) => e instanceof NotFoundError && e.code === 'agent_not_found');

const short = await client.chat.completions.create({ model, messages: hello, max_tokens: 3 });
assert.equal(short.choices[0].finish_reason, 'length');
