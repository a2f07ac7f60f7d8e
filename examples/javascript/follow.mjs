// Follows a voxspool job: its audio, while it is being spoken, as raw samples on stdout or in a WAV file.
//
//   npm ci
//   node follow.mjs JOB | ffplay -nodisp -autoexit -f s16le -ar 24000 -i -
//   node follow.mjs JOB -o speech.wav
//   node follow.mjs JOB --from 1-17 >> speech.pcm       what comes after entry 1-17, the last you had
//
// On stderr: a line for each begin and mark. Exit code: 0 spoken to the end, 1 not (stderr says why), 2 wrong usage.
// The rules it keeps are those of docs/protocol.md.
import { once } from "node:events";
import { closeSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { parseArgs } from "node:util";
import { createClient, ErrorReply, RESP_TYPES } from "redis";

const USAGE = "usage: node follow.mjs JOB [--redis URL] [--from ID] [-o FILE.wav]";
const BLOCK_MS = 1000; // how long a silence lasts before we look whether the job still lives
const OVER = ["ended", "failed", "cancelled"];
const TERMINAL = ["end", "failed", "cancelled"];

/** Yields the entries after the id `last`, as they come: {id, type, pos, data}. Ends behind the terminal entry. */
async function* entries(redis, job, last) {
  const binary = redis.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer }); // audio is bytes, never a string
  const read = (options) => binary.xRead({ key: `voxspool:{${job}}:audio`, id: last }, { COUNT: 64, ...options });
  while (true) {
    let reply = await read({ BLOCK: BLOCK_MS }).catch((error) => {
      if (error instanceof ErrorReply || !redis.isOpen) throw error;
      return null; // the connection broke and comes back: ask again, nothing is lost
    });
    if (!reply) {
      const state = await look(redis, job);
      if (!OVER.includes(state)) continue;
      reply = await read(); // it may have ended between our two questions
      if (!reply && state === "ended" && last !== "0-0") return; // the caller had the end already
      if (!reply) throw new Error(`job ${job} is ${state}, and its stream has nothing after ${last}`);
    }
    for (const { id, message } of reply[0].messages) {
      if (!follows(String(id), last)) throw new Error(`entry ${id} follows ${last}: Redis lost what lay between`);
      last = String(id);
      const { type, pos, data } = message;
      yield { id: last, type: String(type), pos: Number(pos), data: String(type) === "audio" ? data : JSON.parse(data) };
      if (TERMINAL.includes(String(type))) return;
    }
  }
}

/** Whether an entry is the next: within an attempt without a hole, or the first of a later attempt. */
function follows(id, last) {
  const [attempt, seq] = id.split("-").map(Number);
  const [lastAttempt, lastSeq] = last.split("-").map(Number);
  return attempt === lastAttempt ? seq === lastSeq + 1 : attempt > lastAttempt && seq === 1;
}

/** Says where a silent job is: queued, running, ended, failed or cancelled. Throws where Redis knows nothing of it. */
async function look(redis, job) {
  const state = await redis.hGet(`voxspool:{${job}}:ctl`, "state");
  const status = await redis.hGet(`rq:job:${job}`, "status");
  if (state) return state;
  if (!status || status === "finished") throw new Error(`there is no job ${job}, or its stream has expired`);
  return { failed: "failed", canceled: "cancelled", stopped: "cancelled" }[status] ?? "queued";
}

/** Finds where the caller stands who had everything up to an entry: the next sample, and the sample rate. */
async function standing(redis, job, id) {
  if (id === "0-0") return { next: 0, rate: 0 };
  const binary = redis.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  const begin = `${id.split("-")[0]}-1`;
  const found = await Promise.all([id, begin].map((one) => binary.xRange(`voxspool:{${job}}:audio`, one, one)));
  if (!found[0].length || !found[1].length) {
    await look(redis, job); // says so if the whole job is gone
    throw new Error(`job ${job} has no entry ${id} to come back to; read it from the start`);
  }
  const { type, pos, data } = found[0][0].message;
  let next = Number(pos);
  if (String(type) === "audio") next += data.length / 2;
  if (String(type) === "mark") next = JSON.parse(data).end_pos;
  return { next, rate: JSON.parse(found[1][0].message.data).sample_rate ?? 0 };
}

/** Follows the job to its end, handing each sample to `write` once; gives the sample rate. */
async function follow(redis, job, from, write) {
  let { next, rate } = await standing(redis, job, from); // next: the first sample that we have not had
  for await (const { id, type, pos, data } of entries(redis, job, from)) {
    if (type === "failed") throw new Error(`the speech failed (${data.code}): ${data.sentence}`);
    if (type === "cancelled") throw new Error(`the speech was cancelled by ${data.by}`);
    if (pos > next) throw new Error(`entry ${id} starts at sample ${pos}, and we have only ${next}`);
    if (type === "begin") {
      if (data.protocol !== 1) throw new Error(`the stream is of protocol ${data.protocol}; this reads 1`);
      rate = data.sample_rate;
      console.error(`begin ${id} at ${pos}: ${rate} Hz, ${data.engine}, voice ${data.voice}`);
    } else if (type === "audio") {
      const fresh = data.subarray(2 * (next - pos)); // a later attempt says again what we had: skip it
      next += fresh.length / 2;
      if (fresh.length) await write(fresh);
    } else if (type === "mark") {
      console.error(`mark ${id} segment ${data.segment}, text ${data.start} to ${data.end}, samples ${pos} to ${data.end_pos}`);
    }
  }
  return rate;
}

/** The 44 bytes before the samples of a WAV file: 16-bit mono. */
function wavHeader(rate, bytes) {
  const header = Buffer.from("RIFF....WAVEfmt \x10\0\0\0\x01\0\x01\0........\x02\0\x10\0data....", "latin1");
  for (const [value, at] of [[36 + bytes, 4], [rate, 24], [2 * rate, 28], [bytes, 40]]) header.writeUInt32LE(value, at);
  return header;
}

/** Writes a WAV file; it has its name when it is whole. */
async function toWav(redis, job, from, path) {
  const part = `${path}.part`;
  const file = openSync(part, "w");
  let bytes = 0;
  try {
    writeSync(file, wavHeader(0, 0));
    const rate = await follow(redis, job, from, (pcm) => (bytes += writeSync(file, pcm)));
    writeSync(file, wavHeader(rate, bytes), 0, 44, 0); // only now its length is known
    renameSync(part, path);
  } finally {
    closeSync(file);
    rmSync(part, { force: true });
  }
}

async function toStdout(redis, job, from) {
  await follow(redis, job, from, (pcm) => process.stdout.write(pcm) || once(process.stdout, "drain"));
}

function readArguments() {
  const environ = process.env.VOXSPOOL_REDIS_URL || process.env.REDIS_URL || "redis://localhost:6379/0";
  const options = { redis: { type: "string", default: environ }, from: { type: "string", default: "0-0" } };
  try {
    const { values, positionals } = parseArgs({
      options: { ...options, output: { type: "string", short: "o" } },
      allowPositionals: true,
    });
    if (positionals.length !== 1 || !/^\d+-\d+$/.test(values.from)) throw new Error(USAGE);
    return { job: positionals[0], ...values };
  } catch (error) {
    console.error(error.message);
    process.exit(2);
  }
}

const { job, redis: url, from, output } = readArguments();
const giveUp = (tries, cause) => (tries < 10 ? 100 * (tries + 1) : cause); // about 5 s without Redis
const redis = createClient({ url, name: "voxspool-follow", socket: { reconnectStrategy: giveUp } });
redis.on("error", () => {}); // what does not pass arrives as a rejected command
process.stdout.on("error", () => process.exit(1)); // the listener has gone
try {
  await redis.connect();
  await (output ? toWav(redis, job, from, output) : toStdout(redis, job, from));
} catch (error) {
  console.error(error.message || error);
  process.exitCode = 1;
} finally {
  if (redis.isOpen) redis.destroy();
}
