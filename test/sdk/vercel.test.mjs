// Vercel's AI SDK with its provider for compatible servers talks to an agent, unmodified. The Go test beside it starts the
// node and names it here.
import assert from 'node:assert/strict';
import { APICallError, RetryError, generateText, streamText } from 'ai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';

const { NIDO_SDK_BASE: base, NIDO_SDK_KEY: apiKey, NIDO_SDK_MODEL: slug, NIDO_SDK_AGENT: id, NIDO_SDK_LIMITED: limited, NIDO_SDK_WHOLE: whole } = process.env;
const baseURL = base.replace(/\/$/, '');
const provider = (options = {}) => createOpenAICompatible({ name: 'nido', baseURL, apiKey, includeUsage: true, ...options });
const nido = provider();
const silent = { onError() {} };

// By slug and by id, with a system message, a history and settings.
for (const model of [slug, id]) {
  const told = await generateText({
    model: nido(model), system: 'Sé breve.', temperature: 0.25, maxOutputTokens: 50, stopSequences: ['FIN'], maxRetries: 0,
    messages: [{ role: 'user', content: 'uno' }, { role: 'assistant', content: 'dos' }, { role: 'user', content: [{ type: 'text', text: 'tres' }] }],
  });
  assert.equal(told.text, whole);
  assert.equal(told.finishReason, 'stop');
  assert.equal(told.usage.outputTokens, 7);
  assert.ok(told.usage.inputTokens > 0);
  assert.equal(told.response.modelId, model);
  assert.match(told.response.id, /^chatcmpl-turn_/);
  assert.match(told.response.headers['x-request-id'], /^req_/);
}

// A stream with its usage, piece by piece.
const stream = streamText({ model: nido(slug), prompt: 'slowly', maxRetries: 0 });
let text = '', pieces = 0;
for await (const piece of stream.textStream) {
  text += piece;
  pieces++;
}
assert.equal(text, whole);
assert.ok(pieces >= 3, `${pieces} pieces`);
assert.equal(await stream.finishReason, 'stop');
assert.equal((await stream.usage).outputTokens, 7);

// Errors are the SDK's own, with our status, code and sentence.
const asking = (options) => generateText({ model: nido(slug), prompt: 'hola', maxRetries: 0, ...options });
const failure = (status, code) => (e) => {
  assert.ok(APICallError.isInstance(e), String(e));
  assert.equal(e.statusCode, status);
  assert.equal(e.data.error.code, code);
  assert.equal(e.message, e.data.error.message);
  return true;
};
await assert.rejects(asking({ model: provider({ apiKey: 'sk-other' })(slug) }), failure(401, 'invalid_api_key'));
await assert.rejects(asking({ model: nido('nobody') }), failure(404, 'agent_not_found'));
await assert.rejects(asking({ prompt: 'break' }), failure(502, 'upstream_error'));
await assert.rejects(asking({ prompt: 'break', maxRetries: 1 }), (e) => RetryError.isInstance(e) && e.errors.length === 2);
await assert.rejects(asking({ prompt: undefined, messages: [{ role: 'user', content: [{ type: 'image', image: new Uint8Array([137, 80, 78, 71]), mediaType: 'image/png' }] }] }),
  (e) => failure(400, 'invalid_request')(e) && e.data.error.param.startsWith('messages.0.content.0'));
const broken = streamText({ model: nido(slug), prompt: 'break', maxRetries: 0, ...silent });
const parts = [];
for await (const part of broken.fullStream) parts.push(part);
assert.ok(parts.some((part) => part.type === 'text-delta'));
assert.equal(parts.filter((part) => part.type === 'error').length, 1, JSON.stringify(parts));

// An agent of one message a minute: the refusal says when to come again, and the SDK waits for as long as it says.
await asking({ model: nido(limited) });
await assert.rejects(asking({ model: nido(limited) }), (e) => {
  const seconds = Number(e.responseHeaders['retry-after']);
  assert.ok(seconds > 30 && seconds <= 61, `retry-after ${seconds}`);
  assert.ok(Math.abs(Number(e.responseHeaders['retry-after-ms']) - seconds * 1000) <= 1000);
  assert.ok(e.isRetryable);
  return failure(429, 'rate_limited')(e);
});
// It tells them to wait a moment, once: what the SDK does then is told by when it comes again.
const times = [];
const patient = provider({
  fetch: async (...args) => {
    times.push(Date.now());
    const answer = await fetch(...args);
    if (answer.status !== 429) return answer;
    const headers = new Headers(answer.headers);
    assert.ok(headers.has('retry-after-ms'));
    headers.set('retry-after-ms', '1200'); // not the whole minute
    headers.delete('retry-after');
    return new Response(answer.body, { status: 429, headers });
  },
});
await assert.rejects(asking({ model: patient(limited), maxRetries: 1 }), RetryError.isInstance);
assert.equal(times.length, 2);
assert.ok(times[1] - times[0] >= 1150 && times[1] - times[0] < 1900, `came again after ${times[1] - times[0]} ms`);

// Leaving a stream cancels the turn; the Go test looks at the model.
const leaving = new AbortController();
const left = streamText({ model: nido(slug), prompt: 'hang', maxRetries: 0, abortSignal: leaving.signal, ...silent });
for await (const part of left.fullStream) {
  if (part.type === 'text-delta') leaving.abort();
}
