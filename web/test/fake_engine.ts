/**
 * An engine without a server, for looking at the screens: a dozen chats, one of 10,000 messages, and hostile content.
 *
 * It is no part of the app and stands in for nothing in the tests of what the app promises; those use a real server.
 */

import type {
  Chat,
  ChatSettings,
  ChatState,
  Engine,
  EngineEvent,
  Fact,
  Failure,
  Hex,
  Me,
  Media,
  Message,
  MessageKind,
  Page,
  PageRequest,
  PushState,
  Reply,
  Status,
} from "../src/client/api";

export interface Scenario {
  phase: Status["phase"];
  /** Why, where a phase has more than one reason; empty: none. */
  failure: Failure["code"] | "";
  empty: boolean;
  push: PushState["state"];
  offline: boolean;
  deleting: boolean;
  messages: number;
}

const MINUTE = 60_000;
const PEOPLE = [
  "Amina Okafor",
  "Jonas Bergström",
  "ليلى حداد",
  "Grandma",
  "आरव शर्मा",
  "José Luis",
  "\u202eevil name\u202c",
  "Z̸̢͙̦̪̗̘̺̫̘̻̄́̈́̒̏̎̀̒͘͜͝a̴͎̤̬̖̾̿͑̈́l̷̡̛̘̲̝g̴̞̈́o",
  "Дмитрий",
  "A very long name that does not fit on one line of any phone, whatever one does",
  "Mia",
  "Club of the friends of carrier pigeons",
  "",
];
const LINES = [
  "Are you coming tonight?",
  "Yes, I will be there at eight. Shall I bring something?",
  "Some *bread* would be good. And the _old_ board game, if you find it ~or not~.",
  "👍",
  "Here is the map: https://example.org/map?from=a_b_c&to=home (behind the station).",
  "I will take the train at `17:42`, it should be on time.",
  "Great! Then we have time to cook together before the others come. I thought of the soup from last time, with the lentils and a lot of lemon.",
  "😂😂",
  "مرحبا! كيف حالك اليوم؟",
  "See you later",
  "ok",
  "Did you hear about the pigeons on the town hall? They have moved in under the roof and nobody has the heart to send them away.",
];

/** The id of the chat that has this place in the list of `PEOPLE`. */
export function idOf(at: number): Hex {
  return (0x1234567 * (at + 3)).toString(16).padStart(8, "0");
}

export class FakeEngine implements Engine {
  #handler: (event: EngineEvent) => void = () => {};
  #chats = new Map<Hex, Chat>();
  #messages = new Map<Hex, Message[]>();
  /** Who was blocked before being accepted. */
  #undecided = new Set<Hex>();
  #status: Status;
  #next = 1_000_000;

  constructor(scenario: Scenario) {
    const me: Me = {
      id: "00aa11",
      name: "Vera",
      photo: null,
      server: "https://taube.example",
      contactLink: `https://taube.example/c#${"kwHEIH3xq9".repeat(14)}`,
    };
    this.#status = {
      phase: scenario.phase,
      failure: scenario.failure ? failure(scenario.failure) : null,
      me: scenario.phase === "ready" || scenario.phase === "replaced" ? me : null,
      deleting: scenario.deleting,
      connection: {
        state: scenario.offline ? "offline" : "online",
        caughtUp: true,
        failure: null,
        retryAtMs: 0,
        elsewhere: false,
      },
      persisted: false,
      push: { state: scenario.push, why: scenario.push === "broken" ? "no_answer" : "" },
    };
    if (!scenario.empty) this.#people(scenario.messages);
  }

  listen(handler: (event: EngineEvent) => void): void {
    this.#handler = handler;
  }

  #people(many: number): void {
    PEOPLE.forEach((name, at) => {
      const id = idOf(at);
      const state: ChatState = at === 5 || at === 12 ? "request" : at === 8 ? "blocked" : "open";
      const chat: Chat = {
        id,
        name,
        kind: at === 11 ? "group" : "pair",
        state,
        peer: id,
        photo: null,
        unread: 0,
        firstUnread: 0,
        lastAtMs: 0,
        last: null,
        queued: 0,
        waiting: at === 10,
        pinned: at === 3,
        archived: at === 9,
        mutedUntilMs: at === 4 ? Number.MAX_SAFE_INTEGER : 0,
        draft: at === 1 ? "I was thinking that we could" : "",
        draftReply: null,
        verified: at === 0,
        sameNameAs: at === 5 ? "José Luis" : "",
        messageCount: 0,
      };
      const messages: Message[] = [];
      const count = at === 0 ? many : at === 2 ? 60 : at === 10 ? 0 : 18;
      const end = Date.now() - at * at * 47 * MINUTE - 3 * MINUTE;
      for (let n = 1; n <= count; n += 1) {
        const mine = (n * 7) % 5 < 2 && state !== "request";
        const before = end - (count - n) * (at === 0 ? 9 : 31) * MINUTE;
        const line = LINES[(n * 5 + at) % LINES.length] ?? "";
        messages.push(this.#make(chat, n, mine, line, before));
      }
      this.#special(chat, at, messages);
      this.#chats.set(id, chat);
      this.#messages.set(id, messages);
      if (at === 2) this.#unread(chat, messages, 12);
      if (at === 5 || at === 4) this.#unread(chat, messages, 3);
      this.#tail(chat);
    });
  }

  /** So many messages of the other arrive, all at once. */
  flood(id: Hex, count: number, what: string): void {
    const chat = this.#chat(id);
    const list = this.#messages.get(id) ?? [];
    for (let at = 1; at <= count; at += 1) {
      const message = this.#make(chat, (list.at(-1)?.n ?? 0) + 1, false, `${what} ${at}`, Date.now());
      message.unread = true;
      list.push(message);
      chat.unread += 1;
      chat.firstUnread ||= message.n;
      this.#handler({ type: "message", message: { ...message } });
    }
    this.#tail(chat);
  }

  #special(chat: Chat, at: number, messages: Message[]): void {
    const last = messages.at(-1)?.sentAtMs ?? Date.now();
    const add = (kind: MessageKind, change: Partial<Message>) => {
      const n = (messages.at(-1)?.n ?? 0) + 1;
      const message = this.#make(chat, n, false, "", last + n);
      messages.push({ ...message, kind, ...change });
    };
    if (at === 0) {
      const answered = messages[messages.length - 6];
      const reply: Reply | null = answered
        ? {
            id: answered.id,
            sender: answered.sender,
            senderName: answered.senderName,
            mine: answered.mine,
            kind: "text",
            text: answered.text,
          }
        : null;
      add("text", { reply, text: "Then the map is right, too. See you there!" });
      add("media", {
        text: "The roof, this morning",
        media: media(1200, 900, "here"),
        mine: true,
        state: "read",
        senderName: "Vera",
        sender: "00aa11",
      });
      add("text", { text: "🕊️" });
      add("text", { text: "I am on my way.", mine: true, state: "queued", senderName: "Vera", sender: "00aa11" });
    }
    if (at === 1) {
      add("text", { text: "long ".repeat(12_000) });
      add("text", { text: `Z${"\u0300\u0316".repeat(400)}algo ${"\u0489".repeat(2000)} end` });
      add("text", { text: "\u202eetisoppo eht daer lliw siht\u202c and on" });
      add("unknown", {});
      add("gap", { gapCount: 3 });
      add("notice", { notice: { code: "new_device", params: { name: "Jonas Bergström" } } });
      add("media", { media: media(800, 1200, "here"), text: "not a picture" });
      add("media", { media: media(800, 500, "gone") });
      add("text", { text: "```\ndef carry(message):\n    return message\n```" });
      const own = { mine: true, senderName: "Vera", sender: "00aa11" };
      add("text", { text: "This did not get out.", state: "failed", failure: failure("nobody_there"), ...own });
    }
    if (at === 5) add("media", { media: media(900, 900, "remote") });
  }

  #make(chat: Chat, n: number, mine: boolean, text: string, sentAtMs: number): Message {
    this.#next += 1;
    return {
      n,
      id: this.#next.toString(16).padStart(32, "0"),
      chat: chat.id,
      sender: mine ? "00aa11" : chat.id,
      senderName: mine ? "Vera" : chat.name,
      mine,
      sentAtMs,
      kind: "text",
      text,
      state: mine ? "read" : "received",
      failure: null,
      unread: false,
      media: null,
      reply: null,
      notice: null,
      gapCount: 0,
    };
  }

  #unread(chat: Chat, messages: Message[], count: number): void {
    const some = messages.slice(-count);
    for (const each of some) {
      each.unread = true;
      each.mine = false;
      each.state = "received";
    }
    chat.unread = some.length;
    chat.firstUnread = some[0]?.n ?? 0;
  }

  #tail(chat: Chat): void {
    const messages = this.#messages.get(chat.id) ?? [];
    chat.last = messages.at(-1) ?? null;
    chat.lastAtMs = chat.last?.sentAtMs ?? Date.now();
    chat.messageCount = messages.length;
    chat.queued = messages.filter((each) => each.state === "queued").length;
    this.#handler({ type: "chat", chat: { ...chat } });
  }

  #chat(id: Hex): Chat {
    const found = this.#chats.get(id);
    if (!found) throw failure("chat_unknown");
    return found;
  }

  async status(): Promise<Status> {
    return this.#status;
  }

  async join(_link: string, name: string, photo: Blob | null): Promise<Me> {
    await wait(700);
    const me: Me = {
      id: "00aa11",
      name,
      photo,
      server: "https://taube.example",
      contactLink: `https://taube.example/c#${"kwHEIH3xq9".repeat(14)}`,
    };
    this.#status = { ...this.#status, phase: "ready", me };
    return me;
  }

  async inspectLink(link: string) {
    await wait(60);
    if (!/\/[ic]#./.test(link)) throw failure("link_malformed");
    return {
      kind: link.includes("/i#") ? ("invitation" as const) : ("contact" as const),
      server: "https://taube.example",
      name: "Nora Nightingale",
      account: "beefbeef",
      chat: null,
    };
  }

  async setProfile(name: string, photo: Blob | null): Promise<Me> {
    const me = { ...(this.#status.me as Me), name, photo };
    this.#status = { ...this.#status, me };
    return me;
  }

  async add(_link: string): Promise<Chat> {
    await wait(300);
    const chat: Chat = {
      ...this.#chat([...this.#chats.keys()][0] ?? ""),
      id: "beefbeef",
      peer: "beefbeef",
      name: "Nora Nightingale",
      last: null,
      verified: false,
    };
    this.#chats.set(chat.id, chat);
    this.#messages.set(chat.id, []);
    this.#tail(chat);
    return chat;
  }

  async chats(): Promise<Chat[]> {
    return [...this.#chats.values()].map((each) => ({ ...each }));
  }

  async chat(chat: Hex): Promise<Chat> {
    return { ...this.#chat(chat) };
  }

  async messages(chat: Hex, page: PageRequest): Promise<Page> {
    const all = this.#messages.get(chat) ?? [];
    let from = Math.max(0, all.length - page.limit);
    let to = all.length;
    if (page.before !== undefined) {
      to = all.findIndex((each) => each.n >= (page.before ?? 0));
      if (to < 0) to = all.length;
      from = Math.max(0, to - page.limit);
    } else if (page.after !== undefined) {
      from = all.findIndex((each) => each.n > (page.after ?? 0));
      if (from < 0) from = all.length;
      to = Math.min(all.length, from + page.limit);
    } else if (page.around !== undefined) {
      const at = all.findIndex((each) => each.n >= (page.around ?? 0));
      from = Math.max(0, at - Math.floor(page.limit / 2));
      to = Math.min(all.length, from + page.limit);
    }
    await wait(4);
    return { messages: all.slice(from, to), before: from > 0, after: to < all.length };
  }

  async sendText(chat: Hex, text: string, reply: { id: Hex } | null): Promise<Message> {
    return this.#send(chat, text, reply, null);
  }

  async sendPhoto(
    chat: Hex,
    photo: { data: Blob; width: number; height: number; thumbhash: Uint8Array; name: string },
    caption: string,
    reply: { id: Hex } | null,
  ): Promise<Message> {
    return this.#send(chat, caption, reply, {
      mediaType: photo.data.type,
      size: photo.data.size,
      width: photo.width,
      height: photo.height,
      thumbhash: photo.thumbhash,
      name: photo.name,
      state: "here",
      progress: 1,
    });
  }

  async #send(id: Hex, text: string, reply: { id: Hex } | null, shown: Media | null): Promise<Message> {
    await wait(20);
    if (new TextEncoder().encode(text).length > 16_384)
      throw failure("text_too_long", { bytes: text.length, most: 16_384 });
    const chat = this.#chat(id);
    const list = this.#messages.get(id) ?? [];
    const message = this.#make(chat, (list.at(-1)?.n ?? 0) + 1, true, text, Date.now());
    message.state = "queued";
    message.media = shown;
    if (shown) message.kind = "media";
    const answered = reply && list.find((each) => each.id === reply.id);
    if (answered)
      message.reply = {
        id: answered.id,
        sender: answered.sender,
        senderName: answered.senderName,
        mine: answered.mine,
        kind: answered.kind,
        text: answered.text.slice(0, 200),
      };
    list.push(message);
    this.#messages.set(id, list);
    this.#handler({ type: "message", message: { ...message } });
    this.#tail(chat);
    (["kept", "delivered", "read"] as const).forEach((state, at) => {
      setTimeout(
        () => {
          message.state = state;
          this.#handler({ type: "changed", message: { ...message } });
          this.#tail(chat);
        },
        500 * (at + 1),
      );
    });
    setTimeout(() => this.#handler({ type: "typing", chat: id, senderName: chat.name, active: true }), 1_800);
    setTimeout(() => {
      const answer = this.#make(chat, (list.at(-1)?.n ?? 0) + 1, false, `I see: ${text.slice(0, 40)}`, Date.now());
      answer.unread = true;
      list.push(answer);
      chat.unread += 1;
      chat.firstUnread ||= answer.n;
      this.#handler({ type: "message", message: { ...answer } });
      this.#tail(chat);
    }, 3_500);
    return { ...message };
  }

  async media(message: { id: Hex; chat: Hex }): Promise<Blob> {
    await wait(600);
    const found = (this.#messages.get(message.chat) ?? []).find((each) => each.id === message.id);
    if (found?.text === "not a picture") return new Blob(["MZ this is no picture"], { type: "image/webp" });
    const canvas = new OffscreenCanvas(found?.media?.width || 800, found?.media?.height || 600);
    const context = canvas.getContext("2d");
    if (context) {
      const sky = context.createLinearGradient(0, 0, 0, canvas.height);
      sky.addColorStop(0, "#7fa9c9");
      sky.addColorStop(0.6, "#e9d7b9");
      sky.addColorStop(0.61, "#8a5a44");
      sky.addColorStop(1, "#5c3a2c");
      context.fillStyle = sky;
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.fillStyle = "#414d59";
      for (let x = 90; x < canvas.width; x += 170) {
        context.beginPath();
        context.ellipse(x, canvas.height * 0.6 - 30, 46, 30, -0.3, 0, 7);
        context.ellipse(x + 40, canvas.height * 0.6 - 66, 17, 17, 0, 0, 7);
        context.fill();
      }
    }
    return canvas.convertToBlob({ type: "image/webp" });
  }

  async retry(message: { id: Hex; chat: Hex }): Promise<Message> {
    await wait(500);
    const found = (this.#messages.get(message.chat) ?? []).find((each) => each.id === message.id);
    if (!found) throw failure("message_unknown");
    found.state = "kept";
    this.#tail(this.#chat(message.chat));
    return { ...found };
  }

  async markRead(id: Hex, upto: number): Promise<void> {
    const chat = this.#chat(id);
    const list = this.#messages.get(id) ?? [];
    for (const each of list) if (each.n <= upto) each.unread = false;
    const left = list.filter((each) => each.unread);
    chat.unread = left.length;
    chat.firstUnread = left[0]?.n ?? 0;
    this.#tail(chat);
  }

  async typing(): Promise<void> {}

  async accept(id: Hex): Promise<Chat> {
    return this.#state(id, { state: "open", archived: false });
  }

  async ignore(id: Hex): Promise<Chat> {
    return this.#state(id, { archived: true });
  }

  async block(id: Hex): Promise<Chat> {
    if (this.#chat(id).state === "request") this.#undecided.add(id);
    return this.#state(id, { state: "blocked", unread: 0, firstUnread: 0 });
  }

  async unblock(id: Hex): Promise<Chat> {
    return this.#state(id, { state: this.#undecided.delete(id) ? "request" : "open", archived: false });
  }

  async setChat(id: Hex, { draftReply, ...settings }: ChatSettings): Promise<Chat> {
    const { messages } = await this.messages(id, { limit: Number.MAX_SAFE_INTEGER });
    const answered = messages.find((each) => each.id === draftReply?.id) ?? null;
    return this.#state(id, draftReply === undefined ? settings : { ...settings, draftReply: answered });
  }

  async setVerified(id: Hex, verified: boolean): Promise<Chat> {
    return this.#state(id, { verified });
  }

  #state(id: Hex, change: Partial<Chat>): Chat {
    const chat = this.#chat(id);
    Object.assign(chat, change);
    this.#tail(chat);
    return { ...chat };
  }

  async search(words: string) {
    const low = words.toLowerCase();
    const messages = [...this.#messages.values()].flat().filter((each) => each.text.toLowerCase().includes(low));
    return {
      chats: (await this.chats()).filter((each) => each.name.toLowerCase().includes(low)),
      messages: messages.slice(-50).reverse(),
      complete: true,
    };
  }

  async safetyNumber(id: Hex) {
    const digits = Array.from({ length: 60 }, (_, at) => (Number.parseInt(id.slice(0, 6), 16) * (at + 7)) % 10).join(
      "",
    );
    return { digits, code: `taube-safety:${digits}`, verified: this.#chat(id).verified };
  }

  async compare(id: Hex, scanned: string) {
    if (!scanned.startsWith("taube-safety:")) return "no_code" as const;
    return scanned === (await this.safetyNumber(id)).code ? ("match" as const) : ("mismatch" as const);
  }

  async knows(): Promise<Fact[]> {
    return [
      { entry: "account", value: "id 7d1f0c…; 1 device; list number 1" },
      { entry: "account months", value: "made 2026-11, last used 2026-11" },
      { entry: "device", value: "device 55aa02…, mailbox 18" },
      { entry: "key packages", value: "20 one-time, 2 of last resort" },
      { entry: "something new", value: "x" },
    ];
  }

  async deleteAccount(): Promise<void> {
    await wait(500);
    this.#status = { ...this.#status, phase: "deleted", me: null };
  }

  /** The network is there again. */
  async hurry(): Promise<void> {
    this.#status = { ...this.#status, connection: { ...this.#status.connection, state: "online" } };
    this.#handler({ type: "status", status: this.#status });
  }

  async takeOver(): Promise<void> {
    await wait(800);
    this.#status = { ...this.#status, phase: "ready" };
  }

  async setPush(subscription: PushSubscriptionJSON | null): Promise<PushState> {
    return { state: subscription ? "on" : "off", why: "" };
  }

  async pushKey(): Promise<Uint8Array> {
    return new Uint8Array(65);
  }
}

function failure(code: Failure["code"], params: Failure["params"] = {}): Failure {
  return { code, params };
}

function wait(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}

function media(width: number, height: number, state: Media["state"]): Media {
  const thumbhash = new Uint8Array([
    0x2b, 0x18, 0x0a, 0x35, 0x86, 0x37, 0x79, 0x67, 0x77, 0x7f, 0x77, 0x8a, 0x59, 0x80, 0x85, 0x08, 0x58,
  ]);
  return { mediaType: "image/webp", size: 184_320, width, height, thumbhash, name: "roof.webp", state, progress: 0 };
}
