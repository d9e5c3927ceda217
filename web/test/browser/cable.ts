/**
 * The network of one phone, in a test's hands: a SOCKS proxy on loopback that stands between its browser and the server.
 *
 *     const cable = await Cable.lay();
 *     const phone = await openPhone(chromium, server, "/", { proxy: cable.proxy });
 *     cable.cut();       // every connection ends, and none can be made
 *     cable.deafen();    // what the phone sends arrives; what is answered is held back
 *     cable.choke(n);    // after so many more bytes nothing leaves the phone
 *     cable.mend();      // what was held back goes on
 *
 * It knows bytes and connections only. Source: RFC 1928.
 */

import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

const VERSION = 5;
const NO_AUTHENTICATION = Buffer.from([VERSION, 0]);
const GRANTED = Buffer.from([VERSION, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
/** How long an address of each type is in a request, and where it begins; names carry their length. */
const IPV4 = 1;
const NAME = 3;
const HEAD_BYTES = 4;

interface Pair {
  readonly phone: Socket;
  readonly server: Socket;
  /** What the phone said beyond what is let through. */
  held: Buffer[];
}

export class Cable {
  private readonly pairs = new Set<Pair>();
  private readonly sockets = new Set<Socket>();
  private isCut = false;
  private isDeaf = false;
  /** Bytes that may still leave the phone. */
  private room = Number.POSITIVE_INFINITY;

  private constructor(private readonly server: Server) {
    server.on("connection", (phone) => this.accept(phone));
  }

  static async lay(): Promise<Cable> {
    const server = createServer();
    const cable = new Cable(server);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return cable;
  }

  /** What a browser is to be told. */
  get proxy(): { server: string } {
    return { server: `socks5://127.0.0.1:${(this.server.address() as AddressInfo).port}` };
  }

  /** Whether the phone wants to send more than is let through. */
  get isFull(): boolean {
    return [...this.pairs].some(({ held }) => held.length > 0);
  }

  /** Every connection ends without a word more, and none can be made. */
  cut(): void {
    this.isCut = true;
    for (const socket of [...this.sockets]) socket.destroy();
  }

  /** From now on the phone hears nothing, while what it says arrives. */
  deafen(): void {
    this.isDeaf = true;
    for (const { server } of this.pairs) server.pause();
  }

  /** After *bytes* more, nothing leaves the phone. */
  choke(bytes: number): void {
    this.room = bytes;
  }

  /** All is well again: what was held back goes on, as far as its connection is still there. */
  mend(): void {
    this.isCut = false;
    this.isDeaf = false;
    this.room = Number.POSITIVE_INFINITY;
    for (const pair of this.pairs) {
      for (const data of pair.held.splice(0)) pair.server.write(data);
      pair.phone.resume();
      pair.server.resume();
    }
  }

  async remove(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private accept(phone: Socket): void {
    this.keep(phone);
    if (this.isCut) {
      phone.destroy();
      return;
    }
    let said = Buffer.alloc(0);
    let isGreeted = false;
    const hear = (data: Buffer): void => {
      said = Buffer.concat([said, data]);
      if (!isGreeted) {
        const [, methods = 0] = said;
        if (said.length < 2 || said.length < 2 + methods) return;
        said = said.subarray(2 + methods);
        isGreeted = true;
        phone.write(NO_AUTHENTICATION);
      }
      const target = targetOf(said);
      if (target === null) return;
      phone.off("data", hear);
      this.join(phone, target.host, target.port, said.subarray(target.length));
    };
    phone.on("data", hear);
  }

  private join(phone: Socket, host: string, port: number, first: Buffer): void {
    const server = connect(port, host);
    this.keep(server);
    const pair: Pair = { phone, server, held: [] };
    server.once("connect", () => {
      this.pairs.add(pair);
      phone.write(GRANTED);
      if (this.isDeaf) server.pause();
      if (first.length > 0) this.pass(pair, first);
      phone.on("data", (data) => this.pass(pair, data));
      server.on("data", (data) => phone.write(data));
    });
    const end = (): void => {
      this.pairs.delete(pair);
      phone.destroy();
      server.destroy();
    };
    phone.once("close", end);
    server.once("close", () => (this.isDeaf ? this.pairs.delete(pair) : end()));
  }

  /** On to the server, as far as there is room. */
  private pass(pair: Pair, data: Buffer): void {
    const passing = data.subarray(0, Math.min(this.room, data.length));
    this.room -= passing.length;
    if (passing.length > 0) pair.server.write(passing);
    if (passing.length === data.length) return;
    pair.held.push(data.subarray(passing.length));
    pair.phone.pause();
  }

  private keep(socket: Socket): void {
    this.sockets.add(socket);
    socket.once("close", () => this.sockets.delete(socket));
    socket.on("error", () => {}); // its end is told by "close"
  }
}

/** Where a request to connect leads, and how many bytes it has; null: more is to come. */
function targetOf(said: Buffer): { host: string; port: number; length: number } | null {
  if (said.length < HEAD_BYTES + 1) return null;
  const [, , , type, first = 0] = said;
  if (type !== IPV4 && type !== NAME) throw new RangeError(`no such type of address here: ${type}`);
  const start = type === NAME ? HEAD_BYTES + 1 : HEAD_BYTES;
  const end = start + (type === NAME ? first : 4);
  if (said.length < end + 2) return null;
  const address = said.subarray(start, end);
  return {
    host: type === NAME ? address.toString("latin1") : [...address].join("."),
    port: said.readUInt16BE(end),
    length: end + 2,
  };
}
