// Follow a voxspool job: write its audio while it is spoken, as raw samples to stdout or as a WAV file.
//
//   npm ci
//   node follow.mjs JOB | ffplay -nodisp -autoexit -f s16le -ar 24000 -i -
//   node follow.mjs JOB -o speech.wav
//   node follow.mjs JOB --from 1-17 >> speech.pcm       resume after entry 1-17, the last one that you have
//
// It prints a line to stderr for each begin and mark entry. Exit codes: 0 the speech is complete, 1 an error (see
// stderr), 2 wrong usage. It implements the protocol of docs/protocol.md.
import { once } from "node:events";
import { closeSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { parseArgs } from "node:util";
import { createClient, ErrorReply, RESP_TYPES } from "redis";

const USAGE = "usage: node follow.mjs JOB [--redis URL] [--from ID] [-o FILE.wav]";
const BLOCK_MS = 1000; // after this time without a new entry, read the state of the job
const FINAL_STATES = ["ended", "failed", "cancelled"];
const TERMINAL = ["end", "failed", "cancelled"];

const REPORT_MS = 1000; // the longest time between two reports
const REPORTS = 4; // so many within `live_s` of the job
const ACK_LUA = `
  local state, live_s, window_s = unpack(redis.call('HMGET', KEYS[1], 'state', 'live_s', 'window_s'))
  if state and state ~= 'running' then
    return state
  end
  if state and not live_s and not window_s then
    return 'unasked'
  end
  local pos, time = tonumber(ARGV[1]), redis.call('TIME')
  if state then
    pos = math.max(pos, tonumber(redis.call('HGET', KEYS[2], 'pos')) or 0)
  end
  redis.call('EXPIRE', KEYS[2], ARGV[2])
  redis.call('HSET', KEYS[2], 'pos', pos, 'at', time[1] * 1000 + math.floor(time[2] / 1000),
    'waiting', state and '' or '1')
  redis.call('EXPIRE', KEYS[2], ARGV[2])
  return 'noted'
`; // ack.lua of the package voxspool, without its comments

/**
 * Report how far a job was read, beside the reading, until the returned function is called. Jobs that are live or have a
 * window need it: they end, or wait, without a reader. `position` returns the number of samples that were read.
 */
function report(redis, job, position) {
  const reporter = redis.duplicate(); // a connection that no XREAD blocks
  reporter.on("error", () => {}); // the next report is the next try
  const keys = [`voxspool:{${job}}:ctl`, `voxspool:{${job}}:ack`];
  let timer;
  const stop = () => {
    clearTimeout(timer);
    timer = null;
    if (reporter.isOpen) reporter.destroy();
  };
  const send = async () => {
    let everyMs = REPORT_MS;
    try {
      if (!reporter.isOpen) await reporter.connect();
      const said = await reporter.eval(ACK_LUA, { keys, arguments: [String(position()), "86400"] });
      if (said !== "noted") return stop(); // the job needs no reports, or is over
      const live = Number(await reporter.hGet(keys[0], "live_s")); // known as soon as the job has begun
      if (live) everyMs = Math.min(everyMs, (1000 * live) / REPORTS);
    } catch (error) {
      if (error instanceof ErrorReply && !/READONLY|OOM|MASTERDOWN|LOADING/.test(error.message)) return stop();
    }
    if (timer !== null) timer = setTimeout(send, everyMs);
  };
  timer = setTimeout(send, REPORT_MS);
  return stop;
}

/** Yield the entries after the id `last` as they arrive: {id, type, pos, data}. Return after the terminal entry. */
async function* entries(redis, job, last) {
  const binary = redis.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer }); // audio is bytes, not a string
  const read = (options) => binary.xRead({ key: `voxspool:{${job}}:audio`, id: last }, { COUNT: 64, ...options });
  while (true) {
    let reply = await read({ BLOCK: BLOCK_MS }).catch((error) => {
      if (error instanceof ErrorReply || !redis.isOpen) throw error;
      return null; // the client is reconnecting: read again from the same entry
    });
    if (!reply) {
      const state = await readState(redis, job);
      if (!FINAL_STATES.includes(state)) continue;
      reply = await read(); // the job may have ended between the two requests
      if (!reply && state === "ended" && last !== "0-0") return; // `last` was the terminal entry
      if (!reply) throw new Error(`job ${job} is ${state}, and its stream has no entry after ${last}`);
    }
    for (const { id, message } of reply[0].messages) {
      if (!follows(String(id), last)) throw new Error(`entry ${id} follows ${last}: Redis lost the entries between them`);
      const type = String(message.type);
      const data = type === "audio" ? message.data : JSON.parse(message.data);
      if (last !== "0-0" && data.first > Number(last.split("-")[0])) {
        throw new Error(`job ${job} was enqueued again after entry ${last}: read its new stream from the start`);
      }
      last = String(id);
      yield { id: last, type, pos: Number(message.pos), data };
      if (TERMINAL.includes(type)) return;
    }
  }
}

/** Return whether an entry is the next one of the same attempt, or the first one of a later attempt. */
function follows(id, last) {
  const [attempt, seq] = id.split("-").map(Number);
  const [lastAttempt, lastSeq] = last.split("-").map(Number);
  return attempt === lastAttempt ? seq === lastSeq + 1 : attempt > lastAttempt && seq === 1;
}

/** Return the state of a job: queued, running, ended, failed or cancelled. Throws if Redis has no such job. */
async function readState(redis, job) {
  const state = await redis.hGet(`voxspool:{${job}}:ctl`, "state");
  const status = await redis.hGet(`rq:job:${job}`, "status");
  if (state) return state;
  if (!status || status === "finished") throw new Error(`there is no job ${job}, or its stream has expired`);
  return { failed: "failed", canceled: "cancelled", stopped: "cancelled" }[status] ?? "queued";
}

/** Return the position of the next sample and the sample rate for a reader that has entry `id` and all before it. */
async function resumePoint(redis, job, id) {
  if (id === "0-0") return { next: 0, rate: 0 };
  const binary = redis.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  const begin = `${id.split("-")[0]}-1`;
  const found = await Promise.all([id, begin].map((one) => binary.xRange(`voxspool:{${job}}:audio`, one, one)));
  if (!found[0].length || !found[1].length) {
    await readState(redis, job); // throws a more precise error if the whole job has expired
    throw new Error(`job ${job} has no entry ${id} to resume after; read it from the start`);
  }
  const { type, pos, data } = found[0][0].message;
  let next = Number(pos);
  if (String(type) === "audio") next += data.length / 2;
  if (String(type) === "mark") next = JSON.parse(data).end_pos;
  return { next, rate: JSON.parse(found[1][0].message.data).sample_rate ?? 0 };
}

/** Follow the job to its end and pass each sample to `write` exactly once. Return the sample rate. */
async function follow(redis, job, from, write) {
  let { next, rate } = await resumePoint(redis, job, from); // next: position of the next sample to write
  const stop = report(redis, job, () => next);
  try {
    for await (const { id, type, pos, data } of entries(redis, job, from)) {
      if (type === "failed") throw new Error(`the speech failed (${data.code}): ${data.sentence}`);
      if (type === "cancelled") throw new Error(`the speech was cancelled by ${data.by}`);
      if (pos > next) throw new Error(`entry ${id} starts at sample ${pos}, but the samples before it end at ${next}`);
      if (type === "begin") {
        if (data.protocol !== 1) throw new Error(`the stream has protocol version ${data.protocol}; this program reads 1`);
        rate = data.sample_rate;
        console.error(`begin ${id} at ${pos}: ${rate} Hz, ${data.engine}, voice ${data.voice}`);
      } else if (type === "audio") {
        const fresh = data.subarray(2 * (next - pos)); // a later attempt repeats samples: skip them
        if (fresh.length) await write(fresh);
        next += fresh.length / 2;
      } else if (type === "mark") {
        console.error(`mark ${id} segment ${data.segment}, text ${data.start} to ${data.end}, samples ${pos} to ${data.end_pos}`);
      }
    }
  } finally {
    stop();
  }
  return rate;
}

/** Return the header of a WAV file, 44 bytes, for 16-bit mono samples. */
function wavHeader(rate, bytes) {
  const header = Buffer.from("RIFF....WAVEfmt \x10\0\0\0\x01\0\x01\0........\x02\0\x10\0data....", "latin1");
  for (const [value, at] of [[36 + bytes, 4], [rate, 24], [2 * rate, 28], [bytes, 40]]) header.writeUInt32LE(value, at);
  return header;
}

/** Write a WAV file to `path`, under a temporary name until it is complete. */
async function toWav(redis, job, from, path) {
  const part = `${path}.part`;
  const file = openSync(part, "w");
  let bytes = 0;
  try {
    writeSync(file, wavHeader(0, 0));
    const rate = await follow(redis, job, from, (pcm) => (bytes += writeSync(file, pcm)));
    writeSync(file, wavHeader(rate, bytes), 0, 44, 0); // the length is now known
    renameSync(part, path);
  } finally {
    closeSync(file);
    rmSync(part, { force: true });
  }
}

/** Write raw samples to stdout. */
async function toStdout(redis, job, from) {
  await follow(redis, job, from, (pcm) => process.stdout.write(pcm) || once(process.stdout, "drain"));
}

/** Return the parsed command line. Exit with 2 if it is wrong. */
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
let connected = false;
let away = false;
/** Return the wait before the next try: for about 5 s at the start, and for as long as it takes once Redis was there. */
function reconnectDelay(tries, cause) {
  if (tries >= 10 && !connected) return cause;
  if (tries === 10 && !away) console.error(`no Redis answers (${cause.message}); waiting until it is back`);
  away ||= tries >= 10;
  return 100 * (Math.min(tries, 9) + 1);
}
// A connection whose other end is gone without a word is closed after 5 s: XREAD replies every second.
const socket = { reconnectStrategy: reconnectDelay, socketTimeout: 5000 };
const redis = createClient({ url, name: "voxspool-follow", socket });
redis.on("error", () => {}); // commands are rejected with the same errors
process.stdout.on("error", () => process.exit(1)); // the reader of stdout has exited
try {
  await redis.connect();
  connected = true;
  await (output ? toWav(redis, job, from, output) : toStdout(redis, job, from));
} catch (error) {
  console.error(error.message || error);
  process.exitCode = 1;
} finally {
  if (redis.isOpen) redis.destroy();
}
