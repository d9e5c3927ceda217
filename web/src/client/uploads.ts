/**
 * Files on their way: each waits in the store until its blob is complete, and only then is its message queued.
 *
 * A message with a file stands in the history at once; its number and its content are made when the blob is there, so a
 * slow file holds up nothing that was written after it. Loading is the inverse, when a person asks for it. How a blob is
 * sealed and moved is blobs.ts'; what a message with a file looks like is account.ts'.
 * Source: docs/protocol/content.md, CNT-18 to CNT-42.
 */

import { hex, joined } from "../bytes";
import { isFailure } from "./api";
import { failureOf, UserError } from "./errors";
import type { Outbox } from "./outbox";
import type { Tx } from "./store";
import type { Chore, MediaRow, Message } from "./tables";
import type { Vault } from "./vault";

/** What moves sealed files; `Blobs` of blobs.ts fits. */
export interface Files {
  /** Put the file there under the name that *secret* gives; goes on where an earlier attempt ended. Returns its hash. */
  upload(
    file: { secret: Uint8Array; key: Uint8Array; data: Uint8Array },
    progress: (part: number) => void,
    signal: AbortSignal,
  ): Promise<Uint8Array>;
  /** The whole file, checked. Rejects with UserError file_gone, file_altered, offline. */
  download(
    file: { blob: Uint8Array; key: Uint8Array; hash: Uint8Array; size: number },
    progress: (part: number) => void,
  ): Promise<Uint8Array>;
}

const ID_BYTES = 16;
const RETRY_MS = 5_000;
const RETRY_MOST_MS = 600_000;
const NONE_MS = Number.MAX_SAFE_INTEGER;

/** The subject of the chore that uploads the file of a message of ours. */
export function uploadSubject(chat: Uint8Array, message: Uint8Array): Uint8Array {
  return joined(chat, message);
}

/** The files of this profile's messages. */
export class Uploads {
  /** How much of which message's file has moved, 0 … 1, by chat, id and sender in hexadecimal. */
  private readonly parts = new Map<string, number>();
  private readonly loading = new Map<string, Promise<Uint8Array>>();

  constructor(
    private readonly vault: Vault,
    private readonly files: Files,
    private readonly outbox: () => Outbox,
    private readonly onProgress: (message: Message) => void,
  ) {}

  /** How much of the file has moved; null while nothing is under way in this tab. */
  part(message: Pick<Message, "chat" | "id" | "sender">): number | null {
    return this.parts.get(keyOf(message)) ?? null;
  }

  // ---------------------------------------------------------------- sending

  /** Upload what waits; milliseconds until there is more to do. Rejects when the server is not there. */
  async uploadAll(signal: AbortSignal): Promise<number> {
    for (;;) {
      const nowMs = this.vault.nowMs();
      const chores = await this.vault.store.read((tx) => tx.chores("upload"));
      const due = chores.find((chore) => chore.dueMs <= nowMs);
      if (due === undefined) return Math.min(NONE_MS, ...chores.map((chore) => chore.dueMs - nowMs));
      if (signal.aborted) return NONE_MS;
      await this.upload(due, signal);
    }
  }

  private async upload(chore: Chore, signal: AbortSignal): Promise<void> {
    const work = await this.vault.store.read((tx) => this.find(tx, chore));
    if (work === null) {
      await this.vault.store.write((tx) => tx.forgetChore("upload", chore.subject));
      return;
    }
    const { message, media, data } = work;
    try {
      if (data === null) throw new UserError("file_gone");
      await this.vault.ready();
      const file = { secret: chore.payload, key: media.key, data };
      const hash = await this.moving(message, (progress) => this.files.upload(file, progress, signal));
      await this.vault.store.write((tx) => this.uploaded(tx, chore, { ...media, hash }));
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof UserError)) throw error;
      await this.vault.store.write((tx) => this.failed(tx, chore, error));
      if (error.code === "offline") throw error;
    }
  }

  private async find(
    tx: Tx,
    chore: Chore,
  ): Promise<{ message: Message; media: MediaRow; data: Uint8Array | null } | null> {
    const chat = chore.subject.slice(0, ID_BYTES);
    const message = await tx.message(chat, chore.subject.slice(ID_BYTES), await this.vault.account(tx));
    if (message === null || message.media === null) return null;
    return { message, media: message.media, data: await tx.file(message.media.blob) };
  }

  /** The blob is complete: now the message may be sent. */
  private async uploaded(tx: Tx, chore: Chore, media: MediaRow): Promise<void> {
    const found = await this.find(tx, chore);
    const there = await tx.chore("upload", chore.subject);
    await tx.forgetChore("upload", chore.subject);
    const chat = found === null ? null : await tx.chat(found.message.chat);
    if (found === null || there === null || chat === null || chat.state === "blocked") return;
    const { message } = found;
    const { blob, key, hash, size, mediaType, width, height, thumbhash, name } = media;
    await tx.setMedia(message.n, { hash, state: "here" });
    await tx.setFileHash(blob, hash);
    const what = { blob, key, hash, size, mediaType, width, height, thumbhash, name };
    await this.outbox().queue(
      tx,
      chat,
      (messageId, sequence) => ({
        type: "Media",
        messageId,
        sequence,
        sentAtMs: message.sentAtMs,
        ...what,
        caption: message.text,
        replyTo: message.replyTo,
      }),
      { messageId: message.id },
    );
    await tx.note("changed", message.chat, message.id);
  }

  /** Later, if waiting may help; else the message failed, and can be tried again by hand: its file is here still. */
  private async failed(tx: Tx, chore: Chore, error: UserError): Promise<void> {
    if (error.retry) {
      const waitMs = Math.min(RETRY_MS * 2 ** Math.min(chore.tries, 12), RETRY_MOST_MS);
      const dueMs = this.vault.nowMs() + (error.code === "offline" ? 0 : waitMs);
      const now = await tx.chore("upload", chore.subject);
      if (now !== null) await tx.setChore(now.n, now.payload, dueMs, now.tries + 1);
      return;
    }
    await tx.forgetChore("upload", chore.subject);
    const found = await this.find(tx, chore);
    if (found === null) return;
    await tx.setMedia(found.message.n, { state: found.data === null ? "gone" : "here" });
    await tx.setMessageState(found.message.chat, found.message.id, "failed", ["queued"], failureOf(error));
    await tx.note("changed", found.message.chat, found.message.id);
  }

  // ---------------------------------------------------------------- loading

  /** The file of a message: from the store, else from the server. Rejects with UserError. */
  async load(message: Message, media: MediaRow): Promise<Uint8Array> {
    const here = await this.vault.store.read((tx) => tx.file(media.blob, media.hash));
    if (here !== null) return here;
    const key = [media.blob, media.hash, media.key].map(hex).join();
    const under = this.loading.get(key);
    if (under !== undefined) return under;
    const task = this.fetch(message, media).finally(() => this.loading.delete(key));
    this.loading.set(key, task);
    return task;
  }

  private async fetch(message: Message, media: MediaRow): Promise<Uint8Array> {
    await this.vault.ready();
    try {
      const data = await this.moving(message, (progress) => this.files.download(media, progress));
      await this.became(message, "here", data).catch((error: unknown) => {
        if (!isFailure(error)) throw error; // no room to keep it: it can be shown all the same
      });
      return data;
    } catch (error) {
      if (error instanceof UserError && error.code === "file_gone") await this.became(message, "gone");
      if (error instanceof UserError && error.code === "file_altered") await this.became(message, "failed");
      throw error;
    }
  }

  private async became(message: Message, state: MediaRow["state"], data: Uint8Array | null = null): Promise<void> {
    await this.vault.store.write(async (tx) => {
      if (data !== null && message.media !== null) {
        const { blob, hash } = message.media;
        await tx.putFile(blob, data, this.vault.nowMs(), { chat: message.chat, hash });
      }
      await tx.setMedia(message.n, { state });
      await tx.note("changed", message.chat, joined(message.id, message.sender));
    });
  }

  /** Tell of the progress of *move*, and once more when it is under way no longer, whatever came of it. */
  private async moving<T>(message: Message, move: (progress: (part: number) => void) => Promise<T>): Promise<T> {
    const key = keyOf(message);
    const tell = (part: number): void => {
      this.parts.set(key, part);
      this.onProgress(message);
    };
    tell(0);
    try {
      return await move(tell);
    } finally {
      this.parts.delete(key);
      this.onProgress(message);
    }
  }
}

function keyOf({ chat, id, sender }: Pick<Message, "chat" | "id" | "sender">): string {
  return `${hex(chat)}${hex(id)}${hex(sender)}`;
}
