/**
 * The engine as the screens know it: an account in this browser, its chats, and what happens in them.
 *
 *     const account = await Account.open(surroundings);
 *     account.listen((event) => …);
 *     await account.sendText(chat, "Hello!", null);
 *
 * Everything is stored before it is told or sent. Any number of tabs and the service worker may have one open on the same
 * store; what only the holder of the device connection can do, the others ask it for over a channel. This file translates
 * between values of api.ts and rows of the store; what happens, happens in sync.ts and below. It knows nothing that is
 * global: store, core, network, clock, locks and channel are handed in.
 */

import { encodeBase64, hex, NO_BYTES, same } from "../bytes";
import { ACCOUNT_UNKNOWN, WireError } from "../wire/errors";
import type {
  Chat,
  ChatSettings,
  Connection,
  Engine,
  EngineEvent,
  Fact,
  Failure,
  Hex,
  LinkInfo,
  Me,
  Message,
  MessageRef,
  Page,
  PageRequest,
  Photo,
  PushState,
  SafetyNumber,
  SearchResult,
  Status,
} from "./api";
import { type Answer, type Asked, type Channel, isWord, type Word } from "./between";
import { cleanName, contactLink, parseContactLink } from "./contacts";
import { READ } from "./content";
import { parseInvitation } from "./devices";
import { failureOf, UserError, userErrorOf } from "./errors";
import type { DeviceLink, Network } from "./network";
import { shownAs } from "./pictures";
import { digitsOf, pictureOf, Snapshots, safetyCode, shownName } from "./snapshots";
import type { Store, Tx } from "./store";
import { type Listener, type Locks, Sync } from "./sync";
import type { Chat as ChatRow, Entry, MediaRow, Message as MessageRow } from "./tables";
import { socketUrl, TransportError } from "./transport";
import { type Files, Uploads, uploadSubject } from "./uploads";
import {
  bytesOfPicture,
  chatRow,
  checkText,
  decodeKey,
  fileName,
  idOf,
  messageRow,
  nameToShow,
  pixels,
  pushOf,
  replyBytes,
  sound,
} from "./values";
import type { Vault } from "./vault";

export type { Channel } from "./between";

const FIRST_CONNECTION_MS = 8_000;
const LINK_WAIT_MS = 8_000;
const ASK_MS = 15_000;
const SPARE_WAIT_MS = 5_000;
const WAKE_MS = 20_000;
const LAST_RECEIPTS_MS = 2_000;
/** How long a wake-up waits for the tab that has the connection. */
const ELSEWHERE_MS = 5_000;
/** How long blocking waits until the server refuses what comes. */
const REVOKE_MS = 10_000;
/** How soon a deletion begins, or never does: before whoever asks another tab for it stops waiting. */
const DELETION_MS = ASK_MS - 1_000;
const SIGN_OF_LIFE_MS = 5_000;
const UNREAD_BATCH = 500;
const FOUND_MESSAGES = 100;
const SCANNED_MESSAGES = 20_000;
/** What a server takes unless its operator chose otherwise. */
const MAX_FILE_BYTES = 64 * 1024 * 1024;
const MEDIA_TYPE = /^image\/[a-z0-9][a-z0-9!#$&^_.+-]*$/;

/** Everything from outside that an account needs. */
export interface Surroundings {
  /** Rejects with UserError newer or storage. */
  openStore(): Promise<Store>;
  vault(store: Store): Vault;
  network(origin: string): Network;
  files(origin: string, vault: Vault): Files;
  locks: Locks;
  channel: Channel;
  /** Milliseconds that only rise. */
  monotonicMs(): number;
  /** The server that this app came from; null: any will do. */
  origin: string | null;
  /** What the server says of itself at /.well-known/taube. */
  about(origin: string): Promise<unknown>;
  /** Whether the browser promised to keep what is stored. */
  isPersisted(): Promise<boolean>;
  /** A bug, for the developer's console. */
  bug(error: unknown): void;
}

/** What a wake-up of the service worker found. */
export interface News {
  /** New messages, each with its chat as it is now; oldest first. */
  messages: { chat: Chat; message: Message }[];
  /** Whether the mailbox was read to its end. */
  complete: boolean;
  /** Another tab has the connection; it was given time to read, too. */
  elsewhere: boolean;
}

/** An open account, or the place where one will be. */
export class Account implements Engine {
  private readonly listeners = new Set<(event: EngineEvent) => void>();
  private store: Store | null = null;
  private opened: Opened | null = null;
  private phase: Status["phase"] = "none";
  private failure: Failure | null = null;
  /** What the holder of the connection said last. */
  private heard: Connection | null = null;
  private readonly questions = new Map<string, (word: Answer) => void>();
  private readonly stopHearing: () => void;
  private closed = false;
  /** The attempt to join that was asked for last. */
  private joining: Promise<unknown> = Promise.resolve();
  /** Whether this is a wake-up of the service worker, and whether a tab that was opened meanwhile wants to go on. */
  private waking: "no" | "yes" | "enough" = "no";
  /** What was told last of why there will be no connection any more. */
  private lastFatal: UserError | null = null;

  private constructor(private readonly surroundings: Surroundings) {
    this.stopHearing = surroundings.channel.listen((message) => {
      if (isWord(message)) this.hear(message).catch((error: unknown) => surroundings.bug(error));
    });
  }

  // ---------------------------------------------------------------- opening and closing

  /** The account of this browser, if there is one. Never rejects: `status` says what is wrong. *live*: connect. */
  static async open(surroundings: Surroundings, { live = true } = {}): Promise<Account> {
    const account = new Account(surroundings);
    try {
      account.store = await surroundings.openStore();
      account.store.onLost = (error) => {
        account.lost(error).catch((bug: unknown) => surroundings.bug(bug));
      };
      const registered = await account.store.read((tx) => tx.metaInt("registered"));
      if (registered > 0) await account.begin(live);
      else if (account.store.evicted) account.phase = "evicted";
    } catch (error) {
      account.phase = "unreadable";
      account.failure = failureOf(error);
      if (account.failure.code === "internal") surroundings.bug(error);
    }
    return account;
  }

  /** The account is there: run its engine. */
  private async begin(live: boolean): Promise<Opened> {
    const store = this.theStore();
    const vault = this.surroundings.vault(store);
    const origin = await vault.origin();
    const network = this.surroundings.network(origin);
    const uploads: Uploads = new Uploads(
      vault,
      this.surroundings.files(origin, vault),
      () => sync.outbox,
      (message) => this.tellProgress(message),
    );
    const listener: Listener = {
      journal: (entries) => this.tellJournal(entries),
      connection: () => this.tellConnection(),
      bug: (error) => this.surroundings.bug(error),
    };
    const { locks, monotonicMs } = this.surroundings;
    const sync: Sync = new Sync(vault, network, locks, monotonicMs, listener, uploads);
    const snapshots = new Snapshots(vault, (message) => uploads.part(message));
    const opened = { store, vault, sync, uploads, snapshots };
    this.opened = opened;
    this.phase = "ready";
    this.failure = null;
    if (live) {
      await sync.start();
      if (!sync.owner) this.say({ taube: "who" });
    }
    return opened;
  }

  /** End the connections. What was not sent is sent the next time. Idempotent. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.stopHearing();
    await this.opened?.sync.stop();
    await this.store?.close();
  }

  /** Call *listener* with every event from now on; returns what ends it. */
  listen(listener: (event: EngineEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Something suggests that the network is there again, or a person is looking: try at once. */
  async hurry(): Promise<void> {
    this.opened?.sync.hurry();
    if (this.opened?.sync.owner === false) this.say({ taube: "ask", id: "", asked: { method: "connect" } });
  }

  /** Whoever writes does not wait for an attempt that is due in a minute. */
  private hurryIfOffline(): void {
    if (this.connection().state === "offline") this.hurry();
  }

  /**
   * For the service worker, on an account opened with *live* false: read the mailbox to its end and say what is new. If a
   * tab has the connection, it is given the time to do that; one that is opened meanwhile takes over. Ends after some 20
   * seconds at the latest; then the account is to be closed.
   */
  async wake(timeoutMs = WAKE_MS): Promise<News> {
    const { sync, store, vault } = this.mine();
    const found: News = { messages: [], complete: false, elsewhere: false };
    const before = await store.read((tx) => tx.journalEnd());
    this.waking = "yes";
    await sync.start();
    try {
      found.elsewhere = !sync.owner;
      if (found.elsewhere) {
        this.heard = null;
        this.say({ taube: "who" });
        this.say({ taube: "ask", id: "", asked: { method: "connect" } });
      }
      const arrived = async (): Promise<boolean> =>
        (await store.read((tx) => this.arrivedAfter(tx, before))).length > 0;
      found.complete = await sync.until(
        () => (sync.owner ? sync.caughtUp || sync.fatal !== null || this.waking === "enough" : arrived()),
        found.elsewhere ? Math.min(timeoutMs, ELSEWHERE_MS) : timeoutMs,
      );
      found.complete ||= this.isCaughtUpElsewhere();
      if (sync.owner && sync.caughtUp && this.waking === "yes") {
        const sent = async (): Promise<boolean> =>
          store.read(async (tx) => {
            const dueMs = await tx.outboxDueMs();
            if ((await tx.receiptsOwed()).length > 0 || (await tx.metaInt("push_due")) > 0) return false;
            return dueMs === null || dueMs > vault.nowMs();
          });
        await sync.until(sent, LAST_RECEIPTS_MS);
      }
    } finally {
      await sync.stop();
    }
    found.messages = await store.read((tx) => this.arrivedAfter(tx, before));
    return found;
  }

  /** Whether the tab that has the connection has read the mailbox to its end: what came is known there. */
  private isCaughtUpElsewhere(): boolean {
    return this.opened?.sync.owner === false && this.heard?.caughtUp === true;
  }

  private async arrivedAfter(tx: Tx, position: number): Promise<News["messages"]> {
    const news: News["messages"] = [];
    for (let at = position; ; ) {
      const entries = await tx.journalAfter(at);
      const last = entries.at(-1);
      if (last === undefined) return news;
      at = last.n;
      for (const entry of entries) {
        const found = entry.kind === "message" ? await this.messageOf(tx, entry) : null;
        if (found === null || found.message.mine || !found.message.unread) continue;
        news.push({ message: found.message, chat: await this.mine().snapshots.chat(tx, found.chat) });
      }
    }
  }

  // ---------------------------------------------------------------- who one is

  async status(): Promise<Status> {
    return this.answering(async () => ({
      phase: this.phaseNow(),
      failure: this.failure ?? (this.opened?.sync.fatal ? failureOf(this.opened.sync.fatal) : null),
      me: this.opened === null ? null : await this.me(),
      deleting: this.opened !== null && (await this.opened.store.read((tx) => tx.metaInt("deleting"))) > 0,
      connection: this.connection(),
      persisted: await this.surroundings.isPersisted(),
      push: await this.push(),
    }));
  }

  private phaseNow(): Status["phase"] {
    return this.phase === "ready" && this.opened?.sync.fatal ? "replaced" : this.phase;
  }

  private connection(): Connection {
    const sync = this.opened?.sync ?? null;
    const offline = { state: "offline", caughtUp: false, failure: null, retryAtMs: 0 } as const;
    if (sync === null) return { ...offline, elsewhere: false };
    if (!sync.owner && sync.fatal === null) return { ...(this.heard ?? offline), elsewhere: true };
    const problem = sync.fatal ?? sync.offlineReason ?? (sync.link === null ? null : sync.sendProblem);
    const failure = problem === null ? null : failureOf(problem);
    const state = sync.link !== null ? "online" : sync.fatal !== null || sync.retryAtMs > 0 ? "offline" : "connecting";
    return { state, caughtUp: sync.caughtUp, failure, retryAtMs: sync.retryAtMs, elsewhere: false };
  }

  private async me(): Promise<Me> {
    return this.mine().store.read(async (tx) => {
      const account = (await tx.meta("account")) ?? NO_BYTES;
      const name = await tx.metaText("name");
      const server = await tx.metaText("origin");
      const [address] = await tx.addresses("link");
      const link = address && contactLink({ origin: server, account, address: address.address, name });
      return {
        id: hex(account),
        name,
        photo: pictureOf((await tx.meta("photo")) ?? NO_BYTES),
        server,
        contactLink: link ?? null,
      };
    });
  }

  /** One after the other: who asks twice joins once. */
  async join(link: string, name: string, photo: Blob | null): Promise<Me> {
    const joined = this.joining.then(() => this.joinOnce(link, name, photo));
    this.joining = joined.catch(() => {});
    return joined;
  }

  private async joinOnce(link: string, name: string, photo: Blob | null): Promise<Me> {
    return this.answering(async () => {
      const shown = nameToShow(name);
      const picture = photo === null ? NO_BYTES : await bytesOfPicture(photo);
      const [origin, invitation] = parseInvitation(link);
      this.checkServer(origin);
      const store = this.theStore();
      if (this.opened === null) {
        const vault = this.surroundings.vault(store);
        const network = this.surroundings.network(origin);
        const { locks, monotonicMs } = this.surroundings;
        const nobody: Listener = { journal: async () => {}, connection: () => {}, bug: this.surroundings.bug };
        const uploads = new Uploads(
          vault,
          this.surroundings.files(origin, vault),
          () => sync.outbox,
          () => {},
        );
        const sync: Sync = new Sync(vault, network, locks, monotonicMs, nobody, uploads);
        try {
          await sync.devices.prepare(origin, shown);
          await store.write((tx) => tx.setMeta("photo", picture.length > 0 ? picture : null));
          await sync.devices.register(invitation);
        } finally {
          await network.close();
        }
        await store.rememberAccount();
        await this.begin(true);
        this.say({ taube: "restart" });
        await this.tellStatus();
      }
      const { sync } = this.mine();
      // addresses and key packages, so that others can add us; a failure is mended by the next connection
      await sync.until(async () => !sync.owner || sync.caughtUp || sync.offlineReason !== null, FIRST_CONNECTION_MS);
      return this.me();
    });
  }

  private checkServer(origin: string): void {
    try {
      socketUrl(origin);
    } catch (error) {
      if (error instanceof TransportError) throw new UserError("link_malformed", {}, error);
      throw error;
    }
    const own = this.surroundings.origin;
    if (own !== null && origin !== own) throw new UserError("invitation_elsewhere", { server: origin });
  }

  async inspectLink(link: string): Promise<LinkInfo> {
    return this.answering(async () => {
      if (link.includes("/i#")) {
        const [server] = parseInvitation(link);
        this.checkServer(server);
        return { kind: "invitation", server, name: "", account: null, chat: null };
      }
      const contact = parseContactLink(link);
      const { opened } = this;
      const chat = opened && (await opened.store.read((tx) => opened.sync.contacts.known(tx, contact)));
      return {
        kind: "contact",
        server: contact.origin,
        name: cleanName(contact.name),
        account: hex(contact.account),
        chat: chat ? hex(chat.id) : null,
      };
    });
  }

  async setProfile(name: string, photo: Blob | null): Promise<Me> {
    return this.answering(async () => {
      const shown = nameToShow(name);
      const picture = photo === null ? NO_BYTES : await bytesOfPicture(photo);
      const { store, sync } = this.mine();
      await store.write(async (tx) => {
        const before = (await tx.meta("photo")) ?? NO_BYTES;
        if ((await tx.metaText("name")) === shown && same(before, picture)) return;
        await tx.setMeta("name", shown);
        await tx.setMeta("photo", picture.length > 0 ? picture : null);
        for (const chat of await tx.chats()) if (chat.state === "open") await sync.contacts.greet(tx, chat.id);
        await tx.note("me", NO_BYTES);
      });
      return this.me();
    });
  }

  // ---------------------------------------------------------------- chats

  async add(link: string): Promise<Chat> {
    return this.answering(async () => {
      const { sync, store } = this.active();
      const spare = async (): Promise<boolean> =>
        (await store.read((tx) => tx.addresses("spare"))).length > 0 || (sync.owner && sync.offlineReason !== null);
      await sync.until(spare, SPARE_WAIT_MS);
      const { id } = await sync.contacts.add(link);
      return this.chat(hex(id));
    });
  }

  async chats(): Promise<Chat[]> {
    return this.answering(async () => {
      const { store, snapshots } = this.mine();
      return store.read(async (tx) => snapshots.chats(tx, await tx.chats()));
    });
  }

  async chat(chat: Hex): Promise<Chat> {
    return this.answering(async () => {
      const { store, snapshots } = this.mine();
      return store.read(async (tx) => snapshots.chat(tx, await chatRow(tx, chat)));
    });
  }

  async accept(chat: Hex): Promise<Chat> {
    return this.answering(async () => {
      await this.mine().sync.contacts.accept(idOf(chat));
      return this.chat(chat);
    });
  }

  /** Out of sight and silent; the stranger is told nothing, and what was written stays. */
  async ignore(chat: Hex): Promise<Chat> {
    return this.answering(async () => {
      await this.mine().store.write(async (tx) => {
        const row = await chatRow(tx, chat);
        const unread = await tx.unread(row.id, UNREAD_BATCH);
        await tx.markRead(unread.map(({ n }) => n));
        await tx.setChatSettings(row.id, { archived: true, mutedUntilMs: Number.MAX_SAFE_INTEGER });
        await tx.note("chat", row.id);
      });
      return this.chat(chat);
    });
  }

  async block(chat: Hex): Promise<Chat> {
    return this.answering(async () => {
      const { store, sync } = this.mine();
      await sync.contacts.block(idOf(chat));
      const revoked = async (): Promise<boolean> => (await store.read((tx) => tx.chores("revoke"))).length === 0;
      await sync.until(async () => sync.offlineReason !== null || (await revoked()), REVOKE_MS); // it is owed anyway
      return this.chat(chat);
    });
  }

  async unblock(chat: Hex): Promise<Chat> {
    return this.answering(async () => {
      await this.mine().sync.contacts.unblock(idOf(chat));
      return this.chat(chat);
    });
  }

  async setChat(chat: Hex, settings: ChatSettings): Promise<Chat> {
    return this.answering(async () => {
      const { store, sync } = this.mine();
      await store.write(async (tx) => {
        const row = await chatRow(tx, chat);
        const { name, draftReply, ...rest } = settings;
        const answered =
          draftReply === undefined ? {} : { draftReplyTo: await replyBytes(tx, row, draftReply).catch(() => NO_BYTES) };
        await tx.setChatSettings(row.id, { ...rest, ...answered });
        if (name !== undefined) {
          const shown = nameToShow(name);
          if (shown !== shownName(row)) {
            await tx.renameChat(row.id, await sync.contacts.freeName(tx, shown, row.id), "person");
          }
        }
        await tx.note("chat", row.id);
      });
      return this.chat(chat);
    });
  }

  // ---------------------------------------------------------------- messages

  async messages(chat: Hex, page: PageRequest): Promise<Page> {
    return this.answering(async () => {
      const { store, snapshots } = this.mine();
      return store.read(async (tx) => {
        const row = await chatRow(tx, chat);
        const found = await tx.page(row.id, page);
        const messages: Message[] = [];
        for (const message of found.messages) messages.push(await snapshots.message(tx, message, row));
        return { messages, before: found.before, after: found.after };
      });
    });
  }

  async sendText(chat: Hex, text: string, reply: MessageRef | null): Promise<Message> {
    return this.answering(async () => {
      const words = sound(text);
      checkText(words);
      const { store, sync } = this.active();
      this.hurryIfOffline();
      return store.write(async (tx) => {
        const row = await this.writable(tx, chat);
        const replyTo = await replyBytes(tx, row, reply);
        const id = await sync.outbox.queue(
          tx,
          row,
          (messageId, sequence, sentAtMs) => ({ type: "Text", messageId, sequence, sentAtMs, text: words, replyTo }),
          { shown: { kind: "text", text: words, replyTo, media: null } },
        );
        return this.ownMessage(tx, row.id, id);
      });
    });
  }

  async sendPhoto(chat: Hex, photo: Photo, caption: string, reply: MessageRef | null): Promise<Message> {
    return this.answering(async () => {
      const words = sound(caption);
      if (words !== "") checkText(words);
      const mediaType = photo.data.type.toLowerCase();
      if (!MEDIA_TYPE.test(mediaType)) throw new UserError("file_not_a_picture");
      if (photo.data.size > MAX_FILE_BYTES) {
        throw new UserError("file_too_large", { bytes: photo.data.size, most: MAX_FILE_BYTES });
      }
      const data = new Uint8Array(await photo.data.arrayBuffer());
      const { store, sync, vault } = this.active();
      this.hurryIfOffline();
      const secret = vault.random(32);
      const blob = new Uint8Array(await crypto.subtle.digest("SHA-256", secret.slice()));
      const media: MediaRow = {
        blob,
        key: vault.random(32),
        hash: NO_BYTES,
        size: data.length,
        mediaType,
        width: pixels(photo.width),
        height: pixels(photo.height),
        thumbhash: photo.thumbhash.length <= 64 ? photo.thumbhash : NO_BYTES,
        name: fileName(photo.name),
        state: "uploading",
      };
      return store.write(async (tx) => {
        const row = await this.writable(tx, chat);
        const replyTo = await replyBytes(tx, row, reply);
        const id = vault.random(16);
        const nowMs = vault.nowMs();
        await tx.putFile(blob, data, nowMs, null);
        await sync.outbox.show(tx, row, id, 0, nowMs, { kind: "media", text: words, replyTo, media });
        await tx.addChore("upload", uploadSubject(row.id, id), secret, nowMs);
        return this.ownMessage(tx, row.id, id);
      });
    });
  }

  async media(message: MessageRef): Promise<Blob> {
    return this.answering(async () => {
      const { store, uploads } = this.mine();
      const { row, media, state } = await store.read(async (tx) => {
        const chat = await chatRow(tx, message.chat);
        const row = await messageRow(tx, message);
        if (row.media === null) throw new UserError("message_unknown");
        return { row, media: row.media, state: chat.state };
      });
      // nothing is fetched for a chat that is not accepted (CNT-42); what is here already is shown
      if (state !== "open" && media.state !== "here" && media.state !== "uploading") {
        throw new UserError("refused", { code: "chat_not_open" });
      }
      const data = await uploads.load(row, media);
      return new Blob([data.slice()], { type: shownAs(data) });
    });
  }

  async retry(message: MessageRef): Promise<Message> {
    return this.answering(async () => {
      const { store, sync, vault } = this.active();
      this.hurryIfOffline();
      return store.write(async (tx) => {
        const chat = await this.writable(tx, message.chat);
        const row = await messageRow(tx, message);
        const own = await vault.account(tx);
        if (!same(row.sender, own)) throw new UserError("message_unknown");
        if (row.state !== "failed" || !(await tx.setMessageState(chat.id, row.id, "queued", ["failed"]))) {
          return this.ownMessage(tx, chat.id, row.id);
        }
        const nowMs = vault.nowMs();
        const archived = row.sequence > 0 ? await tx.archived(chat.id, row.sequence) : null;
        if (archived !== null && same(archived.message, row.id)) {
          await tx.queueContent(chat.id, row.id, archived.content, nowMs);
        } else if (row.media !== null) {
          await this.uploadAgain(tx, chat, row, row.media);
        } else {
          const { text, replyTo, sentAtMs } = row;
          const make = (messageId: Uint8Array, sequence: number) =>
            ({ type: "Text", messageId, sequence, sentAtMs, text, replyTo }) as const;
          await sync.outbox.queue(tx, chat, make, { messageId: row.id });
        }
        await tx.note("changed", chat.id, row.id);
        return this.ownMessage(tx, chat.id, row.id);
      });
    });
  }

  /** The file under a new key and a new name: a key seals once. */
  private async uploadAgain(tx: Tx, chat: ChatRow, row: MessageRow, media: MediaRow): Promise<void> {
    const { vault } = this.mine();
    const data = await tx.file(media.blob);
    if (data === null) throw new UserError("file_gone");
    const secret = vault.random(32);
    const blob = new Uint8Array(await crypto.subtle.digest("SHA-256", secret.slice()));
    await tx.putFile(blob, data, vault.nowMs(), null);
    await tx.forgetFile(media.blob);
    await tx.setMedia(row.n, { blob, key: vault.random(32), state: "uploading" });
    await tx.addChore("upload", uploadSubject(chat.id, row.id), secret, vault.nowMs());
  }

  async markRead(chat: Hex, upto: number): Promise<void> {
    return this.answering(async () => {
      const { store, vault } = this.mine();
      const id = idOf(chat);
      const some = await store.read(async (tx) => {
        const row = await chatRow(tx, chat);
        return row.unread > 0 && row.firstUnread <= upto;
      });
      if (!some) return;
      await store.write(async (tx) => {
        const own = await vault.account(tx);
        for (;;) {
          const rows = (await tx.unread(id, UNREAD_BATCH)).filter((row) => row.n <= upto);
          if (rows.length === 0) break;
          await tx.markRead(rows.map((row) => row.n));
          for (const row of rows) {
            if (same(row.sender, own) || (row.kind !== "text" && row.kind !== "media")) continue;
            await tx.oweReceipt(id, row.id, READ);
          }
        }
        await tx.note("chat", id);
      });
    });
  }

  async typing(chat: Hex, active: boolean): Promise<void> {
    return this.answering(async () => {
      const { sync } = this.mine();
      if (sync.owner) await this.do({ method: "typing", chat, active });
      else this.say({ taube: "ask", id: "", asked: { method: "typing", chat, active } });
    });
  }

  async search(words: string): Promise<SearchResult> {
    return this.answering(async () => {
      const { store, snapshots } = this.mine();
      const wanted = words
        .trim()
        .toLowerCase()
        .split(/\s+/)
        .filter((word) => word !== "");
      if (wanted.length === 0) return { chats: [], messages: [], complete: true };
      return store.read(async (tx) => {
        const rows = await tx.chats();
        const chats: Chat[] = [];
        for (const row of rows) {
          const name = shownName(row).toLowerCase();
          if (wanted.every((word) => name.includes(word))) chats.push(await snapshots.chat(tx, row));
        }
        const found = await tx.search(words, { limit: FOUND_MESSAGES, scan: SCANNED_MESSAGES });
        const chatById = new Map(rows.map((row) => [hex(row.id), row]));
        const messages: Message[] = [];
        for (const message of found.messages) {
          const chat = chatById.get(hex(message.chat));
          if (chat === undefined || (message.kind !== "text" && message.kind !== "media")) continue;
          messages.push(await snapshots.message(tx, message, chat));
        }
        return { chats, messages, complete: found.next === null };
      });
    });
  }

  // ---------------------------------------------------------------- verification

  async safetyNumber(chat: Hex): Promise<SafetyNumber> {
    return this.answering(async () => {
      const { store } = this.mine();
      return store.read(async (tx) => {
        const row = await chatRow(tx, chat);
        const digits = await this.digits(tx, row);
        return { digits, code: safetyCode(digits), verified: row.verifiedNumber === digits };
      });
    });
  }

  async compare(chat: Hex, scanned: string): Promise<"match" | "mismatch" | "no_code"> {
    return this.answering(async () => {
      const theirs = digitsOf(scanned);
      return this.mine().store.write(async (tx) => {
        const row = await chatRow(tx, chat);
        const digits = await this.digits(tx, row);
        if (theirs === null) return "no_code";
        if (theirs !== digits) return "mismatch";
        await this.mine().snapshots.setVerified(tx, row, digits);
        return "match";
      });
    });
  }

  async setVerified(chat: Hex, verified: boolean): Promise<Chat> {
    return this.answering(async () => {
      await this.mine().store.write(async (tx) => {
        const row = await chatRow(tx, chat);
        await this.mine().snapshots.setVerified(tx, row, verified ? await this.digits(tx, row) : "");
      });
      return this.chat(chat);
    });
  }

  private async digits(tx: Tx, row: ChatRow): Promise<string> {
    const contact = row.peer === null ? null : await tx.contact(row.peer);
    const digits = await this.mine().snapshots.safetyNumber(tx, contact);
    if (digits === null) throw new UserError("no_safety_number");
    return digits;
  }

  // ---------------------------------------------------------------- the account at its server

  async knows(): Promise<Fact[]> {
    return this.answering(async () => (await this.askHolder({ method: "knows" })) as Fact[]);
  }

  async deleteAccount(): Promise<void> {
    return this.answering(async () => {
      await this.askHolder({ method: "deleteAccount", beforeMs: this.mine().vault.nowMs() + DELETION_MS });
    });
  }

  /** This profile becomes a new device of the account, and the only one. Source: DEV-05. */
  async takeOver(): Promise<void> {
    return this.answering(async () => {
      const { sync } = this.mine();
      if (sync.fatal === null) throw new UserError("refused", { code: "not_replaced" });
      await sync.stop();
      await sync.devices.startAnew();
      await this.begin(true);
      this.say({ taube: "restart" });
      await this.tellStatus();
    });
  }

  async setPush(subscription: PushSubscriptionJSON | null): Promise<PushState> {
    return this.answering(async () => {
      const push = subscription === null ? null : pushOf(subscription);
      const { store, sync } = this.active();
      await store.write((tx) => sync.devices.setPush(tx, push));
      if (!(await sync.devices.owesPush())) return this.push();
      try {
        await this.askHolder({ method: "push" });
      } catch (error) {
        if (!userErrorOf(error).retry) throw error; // the server is told with the next connection
      }
      await this.tellStatus();
      return this.push();
    });
  }

  async pushKey(): Promise<Uint8Array> {
    return this.answering(async () => {
      const about = await this.surroundings.about(await this.mine().vault.origin());
      const key = typeof about === "object" && about !== null && "push_key" in about ? about.push_key : null;
      if (typeof key !== "string") throw new UserError("refused", { code: "no_push" });
      return decodeKey(key);
    });
  }

  private async push(): Promise<PushState> {
    if (this.opened === null) return { state: "off", why: "" };
    return this.opened.store.read(async (tx): Promise<PushState> => {
      if ((await tx.metaInt("push_refused")) > 0) return { state: "broken", why: "refused_by_server" };
      if ((await tx.meta("push")) === null) return { state: "off", why: "" };
      if ((await tx.metaInt("push_gone")) > 0) return { state: "broken", why: "endpoint_gone" };
      return { state: "on", why: "" };
    });
  }

  // ---------------------------------------------------------------- what only the holder of the connection does

  /** The answer of the engine that has the device connection: this one, or another tab's. */
  private async askHolder(asked: Asked): Promise<unknown> {
    const { sync } = this.mine();
    const id = encodeBase64(this.mine().vault.random(12));
    let answer: Answer | null = null;
    this.questions.set(id, (word) => {
      answer = word;
      sync.hurryWaiting();
    });
    try {
      if (!sync.owner) {
        if (await sync.isAlone()) throw new UserError("offline");
        this.say({ taube: "ask", id, asked });
        await sync.until(() => answer !== null || sync.owner || this.phase === "deleted", ASK_MS);
      }
    } finally {
      this.questions.delete(id);
    }
    const given = answer as Answer | null;
    if (given !== null) {
      if (given.failure !== null) throw new UserError(given.failure.code, given.failure.params);
      return given.value;
    }
    if (this.phase === "deleted") return null;
    if (!sync.owner) throw new UserError("offline");
    return this.do(asked);
  }

  /** Do what was asked for; this engine has the device connection. */
  private async do(asked: Asked): Promise<unknown> {
    const { sync, vault } = this.mine();
    switch (asked.method) {
      case "connect":
        sync.hurry();
        return null;
      case "typing": {
        if (!sync.caughtUp || sync.link === null) return null;
        const header = { messageId: vault.random(16), sequence: 0, sentAtMs: vault.nowMs() };
        try {
          await sync.outbox.sendEphemeral(idOf(asked.chat), { type: "Typing", ...header, active: asked.active });
        } catch (error) {
          if (!(error instanceof TransportError || error instanceof WireError)) throw error;
        }
        return null;
      }
      case "knows": {
        const link = await this.deviceLink();
        return (await link.expect("Knowledge", (request) => ({ type: "AskKnowledge", request }))).facts.map(
          ({ entry, value }) => ({ entry, value }),
        );
      }
      case "push":
        await sync.devices.publishPush(await this.deviceLink());
        return null;
      case "deleteAccount":
        if (sync.fatal === null || !(await this.isDeleted())) await this.deleteAtServer(asked.beforeMs);
        await this.erase();
        return null;
    }
  }

  /**
   * Once this began, only the server's answer or the next login tells whether the account is there: `deleting` says so
   * until then. It does not begin unless the server answers now, and never once it is *beforeMs*: a request on a dead
   * connection leaves when the network is back, and a tab that slept goes on when it wakes, long after a person was told
   * that it failed. Rejects with UserError, TransportError, WireError. Source: DEV-45.
   */
  private async deleteAtServer(beforeMs: number): Promise<void> {
    const { sync, store, vault } = this.mine();
    const link = await this.deviceLink();
    await awaitSignOfLife(link);
    await store.write(async (tx) => {
      if (link.lost !== null || vault.nowMs() >= beforeMs) throw new UserError("offline");
      await tx.setMeta("deleting", 1);
      await tx.note("me", NO_BYTES);
    });
    try {
      await link.expect("Done", (request) => ({ type: "DeleteAccount", request }));
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      if (error.kind === ACCOUNT_UNKNOWN) return; // an earlier answer was lost on its way
      await sync.dropDeletion();
      throw error;
    }
  }

  /** The device link, once the mailbox was read. Rejects with UserError. */
  private async deviceLink(): Promise<DeviceLink> {
    const { sync } = this.mine();
    sync.hurry();
    await sync.until(() => sync.fatal !== null || (sync.link !== null && sync.caughtUp), LINK_WAIT_MS);
    if (sync.fatal !== null) throw sync.fatal;
    if (sync.link === null) throw userErrorOf(sync.offlineReason ?? new UserError("offline"));
    return sync.link;
  }

  private async erase(): Promise<void> {
    this.say({ taube: "deleted" });
    const { store } = this.mine();
    await this.forgotten();
    await store.erase();
    await this.tellStatus();
  }

  /** What is stored was taken away under us; loading the app anew finds out what is left. */
  private async lost(error: Failure): Promise<void> {
    if (this.closed || this.phase === "deleted") return;
    this.phase = "unreadable";
    this.failure = failureOf(error);
    const { opened } = this;
    this.opened = null;
    await this.tellStatus();
    await opened?.sync.stop();
  }

  /** The account is no more, here or at its server: nothing of it is looked at again. */
  private async forgotten(): Promise<void> {
    this.phase = "deleted";
    const { opened } = this;
    this.opened = null;
    await opened?.sync.stop();
  }

  // ---------------------------------------------------------------- between tabs

  private say(word: Word): void {
    this.surroundings.channel.post(word);
  }

  private async hear(word: Word): Promise<void> {
    const sync = this.opened?.sync ?? null;
    switch (word.taube) {
      case "ask":
        if (sync?.owner) await this.answer(word.id, word.asked);
        break;
      case "answer":
        this.questions.get(word.id)?.(word);
        break;
      case "who":
        if (this.waking === "yes") {
          this.waking = "enough";
          sync?.hurryWaiting();
        } else if (sync?.owner) this.say({ taube: "connection", connection: this.connection() });
        break;
      case "connection":
        if (sync === null || sync.owner) break;
        this.heard = word.connection;
        this.tell({ type: "connection", connection: this.connection() });
        sync.hurryWaiting();
        break;
      case "restart":
        if (this.phase === "deleted" || this.closed) break;
        if (sync !== null && sync.fatal === null) break;
        await sync?.stop();
        await this.begin(true);
        await this.tellStatus();
        break;
      case "deleted":
        if (this.phase === "deleted") break;
        await this.forgotten();
        await this.tellStatus();
        break;
    }
  }

  private async answer(id: string, asked: Asked): Promise<void> {
    let value: unknown = null;
    let failure: Failure | null = null;
    try {
      value = await this.do(asked);
    } catch (error) {
      failure = failureOf(error);
    }
    if (id !== "") this.say({ taube: "answer", id, value, failure });
  }

  // ---------------------------------------------------------------- telling

  private tell(event: EngineEvent): void {
    for (const listener of [...this.listeners]) listener(event);
  }

  private async tellStatus(): Promise<void> {
    this.tell({ type: "status", status: await this.status() });
  }

  private tellConnection(): void {
    const sync = this.opened?.sync ?? null;
    const connection = this.connection();
    if (sync?.owner) this.say({ taube: "connection", connection });
    this.tell({ type: "connection", connection });
    if (sync === null || sync.fatal === this.lastFatal) return;
    this.lastFatal = sync.fatal;
    if (sync.fatal !== null) this.ended().catch((error: unknown) => this.surroundings.bug(error));
  }

  /** This is the device no more: as was wanted, if the account was being deleted and is gone (DEV-45). */
  private async ended(): Promise<void> {
    if (await this.isDeleted()) await this.erase();
    else await this.tellStatus();
  }

  /** Whether a deletion was wanted and the server has done it. Another copy that became the device is none. */
  private async isDeleted(): Promise<boolean> {
    const { store, sync } = this.mine();
    if ((await store.read((tx) => tx.metaInt("deleting"))) === 0) return false;
    return sync.devices.isAccountGone().catch(() => false);
  }

  /** Make events of new lines of the journal. */
  private async tellJournal(entries: readonly Entry[]): Promise<void> {
    if (this.opened === null) return;
    const { store, snapshots } = this.opened;
    const events = await store.read(async (tx) => {
      const events: EngineEvent[] = [];
      const touched = new Map<string, ChatRow>();
      for (const entry of entries) {
        if (entry.kind === "me") continue;
        const chat = await tx.chat(entry.chat);
        if (chat === null) continue;
        if (entry.kind === "typing") {
          const senderName = await snapshots.nameOf(tx, entry.about, chat, false);
          events.push({ type: "typing", chat: hex(chat.id), senderName, active: entry.text !== "" });
          continue;
        }
        touched.set(hex(chat.id), chat);
        const found = entry.kind === "chat" ? null : await this.messageOf(tx, entry);
        if (found === null) continue;
        events.push({ type: entry.kind === "changed" ? "changed" : "message", message: found.message });
      }
      // the chats first: whoever hears of a message finds it counted already
      const chats = await snapshots.chats(tx, [...touched.values()]);
      return [...chats.map((chat): EngineEvent => ({ type: "chat", chat })), ...events];
    });
    for (const event of events) this.tell(event);
    if (entries.some((entry) => entry.kind === "me")) await this.tellStatus();
  }

  /** The message that a line of the journal is about. */
  private async messageOf(tx: Tx, entry: Entry): Promise<{ message: Message; chat: ChatRow } | null> {
    const { vault, snapshots } = this.mine();
    const chat = await tx.chat(entry.chat);
    const isNamed = entry.about.length > 16 || entry.kind === "notice"; // a notice of a group is nobody's
    const sender = isNamed ? entry.about.slice(16) : await vault.account(tx);
    const row = await tx.message(entry.chat, entry.about.slice(0, 16), sender);
    if (chat === null || row === null) return null;
    return { message: await snapshots.message(tx, row, chat), chat };
  }

  private tellProgress(row: MessageRow): void {
    if (this.opened === null) return;
    const { store, snapshots } = this.opened;
    const tell = async (): Promise<void> => {
      const message = await store.read(async (tx) => {
        const chat = await tx.chat(row.chat);
        const now = await tx.message(row.chat, row.id, row.sender);
        return chat === null || now === null ? null : snapshots.message(tx, now, chat);
      });
      if (message !== null) this.tell({ type: "changed", message });
    };
    tell().catch((error: unknown) => this.surroundings.bug(error));
  }

  // ---------------------------------------------------------------- helpers

  /** What *work* gives; what it throws as a refusal with a code. */
  private async answering<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      const refusal = userErrorOf(error);
      if (refusal.code === "internal") this.surroundings.bug(error);
      throw refusal;
    }
  }

  private theStore(): Store {
    if (this.store === null) throw new UserError("storage");
    return this.store;
  }

  /** The open account. Throws UserError when there is none. */
  private mine(): Opened {
    if (this.opened === null) throw new UserError(this.failure?.code ?? "chat_unknown");
    return this.opened;
  }

  /** The same, of a device that may still send. */
  private active(): Opened {
    const opened = this.mine();
    if (opened.sync.fatal !== null) throw opened.sync.fatal;
    return opened;
  }

  /** The chat, accepted if it was a request; inside a transaction. */
  private async writable(tx: Tx, chat: Hex): Promise<ChatRow> {
    const row = await chatRow(tx, chat);
    if (row.state === "blocked") throw new UserError("chat_blocked");
    return row.state === "request" ? this.mine().sync.contacts.acceptIn(tx, row.id) : row;
  }

  private async ownMessage(tx: Tx, chat: Uint8Array, id: Uint8Array): Promise<Message> {
    const { vault, snapshots } = this.mine();
    const row = await tx.message(chat, id, await vault.account(tx));
    const of = await tx.chat(chat);
    if (row === null || of === null) throw new UserError("message_unknown");
    return snapshots.message(tx, row, of);
  }
}

interface Opened {
  store: Store;
  vault: Vault;
  sync: Sync;
  uploads: Uploads;
  snapshots: Snapshots;
}

/** Ask the server for what it makes without keeping it, an address. Rejects with TransportError if it does not answer. */
async function awaitSignOfLife(link: DeviceLink): Promise<void> {
  try {
    await link.expect("Minted", (request) => ({ type: "MintAddresses", request, count: 1 }), SIGN_OF_LIFE_MS);
  } catch (error) {
    if (!(error instanceof WireError)) throw error; // a refusal is an answer
  }
}
