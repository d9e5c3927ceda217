/**
 * A push service for Firefox on loopback: speaks to the browser as Mozilla's does, and takes what senders post.
 *
 * The browser connects by WebSocket (subprotocol `push-notification`), registers channels, and gets each body that is
 * posted to `/push/CHANNEL` as it came; it alone can decrypt it. Firefox is told of it by `preferences`. `posts` has
 * what came, and `acknowledged` what the browser said of each: 100 stands for decrypted and handed to the worker.
 */

import { randomUUID } from "node:crypto";
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { type WebSocket, WebSocketServer } from "ws";

export interface Post {
  channel: string;
  headers: IncomingHttpHeaders;
  body: Buffer;
}

/** What the browser says. */
interface Said {
  messageType?: "hello" | "register" | "unregister" | "ack" | "nack";
  uaid?: string;
  channelID?: string;
  code?: number;
  updates?: { code?: number }[];
}

export const DECRYPTED = 100;

export class Autopush {
  readonly posts: Post[] = [];
  readonly acknowledged: number[] = [];
  /** What senders are answered: null, as a push service does. */
  status: number | null = null;
  readonly #browsers = new Map<string, WebSocket>();

  private constructor(
    private readonly http: Server,
    private readonly sockets: WebSocketServer,
  ) {
    http.on("request", async (request, response) => {
      const post = await readPost(request);
      this.posts.push(post);
      response.writeHead(this.status ?? this.#deliver(post)).end();
    });
    sockets.on("connection", (socket) => {
      socket.on("message", (data) => this.#hear(socket, JSON.parse(data.toString()) as Said));
    });
  }

  static async start(): Promise<Autopush> {
    const http = createServer();
    const sockets = new WebSocketServer({ server: http, handleProtocols: () => "push-notification" });
    const service = new Autopush(http, sockets);
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    return service;
  }

  /** End everything of it. */
  async stop(): Promise<void> {
    for (const socket of this.sockets.clients) socket.terminate();
    this.http.closeAllConnections();
    await new Promise((resolve) => this.http.close(resolve));
  }

  /** Where senders post to. */
  get origin(): string {
    return `http://127.0.0.1:${this.#port()}`;
  }

  /** The channels of all browsers. */
  get channels(): string[] {
    return [...this.#browsers.keys()];
  }

  /** What makes Firefox use this service, and asks nobody. Under remote control it would connect to none. */
  preferences(): Record<string, unknown> {
    return {
      "dom.push.serverURL": `ws://127.0.0.1:${this.#port()}/`,
      "remote.prefs.recommended": false,
      "dom.push.testing.allowInsecureServerURL": true,
      "dom.push.testing.ignorePermission": true,
      "permissions.default.desktop-notification": 1,
      "alerts.useSystemBackend": false,
    };
  }

  #port(): number {
    return (this.http.address() as AddressInfo).port;
  }

  #deliver(post: Post): number {
    const browser = this.#browsers.get(post.channel);
    if (browser === undefined) return 410;
    say(browser, {
      messageType: "notification",
      channelID: post.channel,
      version: randomUUID(),
      data: post.body.toString("base64url"),
      headers: { encoding: post.headers["content-encoding"] },
      ttl: 60,
    });
    return 201;
  }

  #hear(socket: WebSocket, said: Said): void {
    const channelID = said.channelID ?? "";
    switch (said.messageType) {
      case "hello":
        say(socket, {
          messageType: "hello",
          uaid: said.uaid || randomUUID(),
          status: 200,
          use_webpush: true,
          broadcasts: {},
        });
        break;
      case "register":
        this.#browsers.set(channelID, socket);
        say(socket, {
          messageType: "register",
          channelID,
          status: 200,
          pushEndpoint: `${this.origin}/push/${channelID}`,
        });
        break;
      case "unregister":
        this.#browsers.delete(channelID);
        say(socket, { messageType: "unregister", channelID, status: 200 });
        break;
      case "ack":
        this.acknowledged.push(...(said.updates ?? []).map((update) => update.code ?? DECRYPTED));
        break;
      case "nack":
        this.acknowledged.push(said.code ?? 0);
        break;
      default:
        say(socket, {});
    }
  }
}

function say(socket: WebSocket, message: object): void {
  socket.send(JSON.stringify(message));
}

async function readPost(request: IncomingMessage): Promise<Post> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  const channel = (request.url ?? "").split("/").at(-1) ?? "";
  return { channel, headers: request.headers, body: Buffer.concat(parts) };
}
