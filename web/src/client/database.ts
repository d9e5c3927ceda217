/**
 * Encrypted tables in IndexedDB, and transactions over them that hold one lock for all tabs.
 *
 *     write(work)   takes the exclusive lock, gives *work* a Transaction, and stores all that it changed at once
 *     read(work)    takes the shared lock: nothing changes while *work* looks
 *
 * A record is sealed by AES-256-GCM under a key that the browser does not give out, bound to its table and its key. The
 * keys of records say nothing: they are running numbers, or blinded by HMAC under a second such key. No transaction of
 * IndexedDB is open while anything is sealed or opened: a step collects its changes, seals them, and stores them in one
 * IndexedDB transaction with durability "strict". What does not open is reported and left as it is: by an error, or, in
 * a table that says so, by an `Unreadable` in the place of its row, so that the rest of the table can be read.
 *
 * There are two kinds of tables. A `Small` one is read whole and stays in memory while no other tab changes it. A
 * `Large` one is read by key, range and index. It does not know what any table is for; nothing else knows IndexedDB.
 * The only importer of idb.
 */

import { type IDBPDatabase, openDB } from "idb";
import { hex, joined, same, unhex } from "../bytes";
import { type Packable, PackingError, pack, type Unpacked, unpack } from "../wire/packing";
import type { ErrorCode, Failure, Params } from "./api";

/** What happens to a store that cannot be used: "storage", "newer" or "damaged" of the screens' codes. */
export class StoreError extends Error implements Failure {
  readonly params: Params = {};

  constructor(
    readonly code: ErrorCode,
    why: string,
    options?: ErrorOptions,
  ) {
    super(why, options);
    this.name = "StoreError";
  }
}

/** navigator.locks, as far as it is needed. */
export interface Locks {
  request<T>(
    name: string,
    options: { mode: "exclusive" | "shared"; signal: AbortSignal },
    callback: () => Promise<T>,
  ): Promise<T>;
}

/** A value that may stand in an index or be a key: it reveals nothing by itself. */
export type Key = number | Uint8Array<ArrayBuffer> | readonly Key[];
/** What of a record stands beside what is sealed, for indexes. */
export type Plain = Readonly<Record<string, Key>>;

/** A table that is held in memory as long as nobody else changes it. The keys of its rows are text. */
export interface Small<R> {
  readonly id: number;
  readonly row?: R;
}

/** A table that is read piece by piece. */
export interface Large<R> {
  readonly name: string;
  /** Which property of the plain part, or which of them in order, each index is over. */
  readonly indexes: Readonly<Record<string, string | readonly string[]>>;
  /** A record that does not open is an `Unreadable` among its rows, not the end of everything that reads it. */
  readonly keepsUnreadable?: true;
  readonly row?: R;
}

/** What stands for a record that does not open. Stored with another plain part, what is sealed in it stays as it is. */
export class Unreadable {
  constructor(
    readonly plain: Plain,
    readonly sealed: Uint8Array<ArrayBuffer>,
  ) {}
}

/** How a large table is read: along *index* or its own keys, from one end of the range. */
export interface Scan {
  index?: string;
  /** Inclusive. */
  from?: Key;
  to?: Key;
  newestFirst?: boolean;
  limit?: number;
}

interface Head {
  version: number;
  /** Version and number of rows of each small table. */
  small: Map<number, { version: number; rows: number }>;
  /** The next running number of each name. */
  next: Map<string, number>;
}

interface Stored {
  readonly d: Uint8Array<ArrayBuffer>;
  readonly [property: string]: Key;
}

interface Change {
  readonly key: Key;
  /** null: deleted. */
  readonly value: { readonly plain: Plain; readonly row: object } | null;
}

interface SmallState {
  version: number;
  rows: Map<string, object>;
}

interface Keys {
  sealing: CryptoKey;
  blinding: CryptoKey;
}

const KEYS = "keys";
const HEAD = "head";
const ROWS = "rows";
const ONLY = 1;
/** Stands in the place of the keys from when everything is to be deleted until it is. */
const ERASED = "erased";
const NONCE_BYTES = 12;
const BLINDED_BYTES = 16;
const LOCK_MS = 30_000;
const ERASE_MS = 5_000;
const MOST_BLINDED = 20_000;

export interface DatabaseOptions {
  readonly name: string;
  /** Rises when tables or indexes are added; a database of a higher one is refused. */
  readonly schema: number;
  readonly large: readonly Large<object>[];
  readonly locks: Locks;
  readonly random: (size: number) => Uint8Array;
}

/** The open database, in one worker. */
export class Database {
  /** Called after each transaction that changed something here. */
  onCommit: () => void = () => {};
  /** Called when the database was taken away: deleted, closed by the browser, or opened by a newer version of the app. */
  onLost: (error: StoreError) => void = () => {};
  private readonly small = new Map<number, SmallState>();
  private readonly loading = new Map<number, Promise<Map<string, object>>>();
  private readonly blinded = new Map<string, Promise<Uint8Array<ArrayBuffer>>>();
  private closedBecause: StoreError | null = null;

  private constructor(
    private readonly options: DatabaseOptions,
    private readonly db: IDBPDatabase,
    private readonly keys: Keys,
  ) {}

  /**
   * The database, made if there is none. Throws StoreError: "newer" when a newer version of the app has written it,
   * "damaged" when it cannot be read, "storage" when the browser refuses; nothing was changed then.
   */
  static async open(options: DatabaseOptions): Promise<Database> {
    return locked(options, "exclusive", async () => {
      let opened: Database | null = null;
      const open = () => openTables(options, (error) => opened?.taken(error));
      let db = await open();
      try {
        if ((await db.get(KEYS, ONLY)) === ERASED) {
          db.close();
          await deleted(options.name);
          db = await open();
        }
        const keys = await keysOf(db, options);
        opened = new Database(options, db, keys);
        await opened.readHead();
        return opened;
      } catch (error) {
        db.close();
        throw error;
      }
    });
  }

  /** Idempotent. */
  close(): void {
    this.lose(new StoreError("storage", "the database was closed"));
  }

  /** Delete everything, the keys first: without them the rest is noise. If it is cut off, the next opening goes on. */
  async erase(): Promise<void> {
    await locked(this.options, "exclusive", async () => {
      this.check();
      const tx = this.db.transaction([KEYS, HEAD], "readwrite", { durability: "strict" });
      await Promise.all([tx.objectStore(KEYS).put(ERASED, ONLY), tx.objectStore(HEAD).clear(), tx.done]);
      this.close();
      await deleted(this.options.name);
    });
  }

  /** Run *work* alone in all tabs; what it changed is durable when this resolves, and nothing of it if it rejects. */
  async write<T>(work: (tx: Transaction) => Promise<T>): Promise<T> {
    const { result, changed } = await locked(this.options, "exclusive", async () => {
      const { head, raw } = await this.readHead();
      const tx = new Transaction(this, head, true);
      try {
        const result = await work(tx);
        tx.end();
        const changed = await this.commit(tx, head, raw);
        return { result, changed };
      } catch (error) {
        for (const id of tx.touched) this.small.delete(id);
        throw error;
      } finally {
        tx.end();
      }
    });
    if (changed) this.onCommit();
    return result;
  }

  /** Run *work* while nothing changes. */
  async read<T>(work: (tx: Transaction) => Promise<T>): Promise<T> {
    return locked(this.options, "shared", async () => {
      const { head } = await this.readHead();
      const tx = new Transaction(this, head, false);
      try {
        return await work(tx);
      } finally {
        tx.end();
      }
    });
  }

  /** One row of a small table as it was last committed, without any lock. */
  async committed<R extends object>(table: Small<R>, key: string): Promise<R | null> {
    try {
      this.check();
      const at = await this.smallKey(table.id, key);
      const stored: Stored | undefined = await this.db.get(ROWS, idbKey(at));
      return stored === undefined ? null : ((await this.unseal(ROWS, at, stored.d)) as { row: R }).row;
    } catch (error) {
      throw failed(error);
    }
  }

  // ---------------------------------------------------------------- for Transaction

  /** The rows of a small table, by their keys. */
  async rowsOf(id: number, head: Head): Promise<Map<string, object>> {
    const expected = head.small.get(id) ?? { version: 0, rows: 0 };
    const known = this.small.get(id);
    if (known?.version === expected.version) return known.rows;
    let loading = this.loading.get(id);
    if (loading === undefined) {
      loading = this.load(id, expected.rows);
      this.loading.set(id, loading);
    }
    try {
      const rows = await loading;
      if (this.loading.get(id) === loading) this.small.set(id, { version: expected.version, rows });
      return rows;
    } finally {
      if (this.loading.get(id) === loading) this.loading.delete(id);
    }
  }

  private async load(id: number, expected: number): Promise<Map<string, object>> {
    this.check();
    const range = IDBKeyRange.bound([id], [id + 1], false, true);
    const tx = this.db.transaction(ROWS, "readonly");
    const [keys, values] = await Promise.all([tx.store.getAllKeys(range), tx.store.getAll(range), tx.done]);
    const opened = await Promise.all(
      values.map((stored: Stored, at) => this.unseal(ROWS, ourKey(keys[at] as IDBValidKey), stored.d)),
    );
    const rows = new Map((opened as { key: string; row: object }[]).map(({ key, row }) => [key, row]));
    if (rows.size !== expected) throw new StoreError("damaged", `rows of table ${id} are missing`);
    return rows;
  }

  /** The records of a large table with these keys; null where there is none. */
  async recordsOf(table: Large<object>, keys: readonly Key[]): Promise<(object | null)[]> {
    if (keys.length === 0) return [];
    this.check();
    const tx = this.db.transaction(table.name, "readonly");
    const stored = await Promise.all([...keys.map((key) => tx.store.get(idbKey(key))), tx.done]);
    return Promise.all(keys.map((key, at) => this.recordOf(table, key, stored[at] as Stored | undefined)));
  }

  /** (key, plain part, what is sealed) in order, at most *limit*. */
  async scanned(name: string, scan: Scan, limit: number): Promise<{ key: Key; stored: Stored }[]> {
    this.check();
    const tx = this.db.transaction(name, "readonly");
    const source = scan.index === undefined ? tx.store : tx.store.index(scan.index);
    const range = rangeOf(scan);
    const found: { key: Key; stored: Stored }[] = [];
    if (scan.newestFirst) {
      let cursor = await source.openCursor(range, "prev");
      while (cursor && found.length < limit) {
        found.push({ key: ourKey(cursor.primaryKey), stored: cursor.value as Stored });
        if (found.length < limit) cursor = await cursor.continue();
      }
    } else if (scan.index === undefined) {
      const most = limit < 2 ** 31 ? limit : undefined;
      const [keys, values] = await Promise.all([tx.store.getAllKeys(range, most), tx.store.getAll(range, most)]);
      for (const [at, stored] of values.entries()) found.push({ key: ourKey(keys[at] as IDBValidKey), stored });
    } else {
      const index = tx.store.index(scan.index);
      const most = limit < 2 ** 31 ? limit : undefined;
      const [keys, values] = await Promise.all([index.getAllKeys(range, most), index.getAll(range, most)]);
      for (const [at, stored] of values.entries()) found.push({ key: ourKey(keys[at] as IDBValidKey), stored });
    }
    return found;
  }

  async keysIn(name: string, scan: Scan): Promise<Key[]> {
    this.check();
    const store = this.db.transaction(name, "readonly").store;
    const source = scan.index === undefined ? store : store.index(scan.index);
    return (await source.getAllKeys(rangeOf(scan))).map(ourKey);
  }

  async recordOf(table: Large<object>, key: Key, stored: Stored | undefined): Promise<object | null> {
    if (stored === undefined) return null;
    const { d, ...plain } = stored;
    try {
      return await this.unseal(table.name, key, d);
    } catch (error) {
      if (table.keepsUnreadable && error instanceof StoreError && error.code === "damaged") {
        return new Unreadable(plain, d);
      }
      throw error;
    }
  }

  /** 16 bytes that stand for *data* in this database and say nothing to who has not its key. */
  blind(data: Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
    const name = hex(data);
    let tag = this.blinded.get(name);
    if (tag === undefined) {
      tag = crypto.subtle
        .sign("HMAC", this.keys.blinding, data.slice())
        .then((signature) => new Uint8Array(signature).slice(0, BLINDED_BYTES));
      tag.catch(() => this.blinded.delete(name));
      if (this.blinded.size >= MOST_BLINDED) this.blinded.clear();
      this.blinded.set(name, tag);
    }
    return tag;
  }

  // ---------------------------------------------------------------- head and commit

  private async readHead(): Promise<{ head: Head; raw: Uint8Array }> {
    this.check();
    const raw: Uint8Array<ArrayBuffer> | undefined = await this.db.get(HEAD, ONLY);
    if (raw === undefined) throw new StoreError("damaged", "the head is missing");
    const { version, small, next } = (await this.unseal(HEAD, ONLY, raw)) as {
      version: number;
      small: [number, number, number][];
      next: [string, number][];
    };
    const tables = small.map(([id, version, rows]) => [id, { version, rows }] as const);
    return { head: { version, small: new Map(tables), next: new Map(next) }, raw };
  }

  /** Store all changes of *tx* at once. Whether there were any. */
  private async commit(tx: Transaction, head: Head, raw: Uint8Array): Promise<boolean> {
    const puts: { name: string; key: Key; value: Stored | Uint8Array | null }[] = [];
    const sealing: Promise<void>[] = [];
    const seal = (name: string, key: Promise<Key> | Key, plain: Plain, row: object | null) => {
      sealing.push(
        (async () => {
          const at = await key;
          const sealed = async (of: object) => (of instanceof Unreadable ? of.sealed : this.seal(name, at, of));
          const value = row === null ? null : { ...plain, d: await sealed(row) };
          puts.push({ name, key: at, value });
        })(),
      );
    };
    for (const [id, keys] of tx.changedSmall) {
      const rows = this.small.get(id)?.rows ?? new Map<string, object>();
      for (const key of keys) {
        const row = rows.get(key);
        seal(ROWS, this.smallKey(id, key), {}, row === undefined ? null : { key, row });
      }
    }
    for (const [name, changes] of tx.changedLarge) {
      for (const { key, value } of changes.all.values()) seal(name, key, value?.plain ?? {}, value?.row ?? null);
    }
    if (sealing.length === 0) return false;

    head.version += 1;
    for (const id of tx.changedSmall.keys()) {
      const rows = this.small.get(id)?.rows.size ?? 0;
      head.small.set(id, { version: head.version, rows });
    }
    const sealedHead = this.seal(HEAD, ONLY, {
      version: head.version,
      small: [...head.small].map(([id, { version, rows }]) => [id, version, rows]),
      next: [...head.next],
    });
    await Promise.all([...sealing, sealedHead]);
    puts.push({ name: HEAD, key: ONLY, value: await sealedHead });

    this.check();
    const names = [...new Set(puts.map(({ name }) => name))];
    const idb = this.db.transaction(names, "readwrite", { durability: "strict" });
    const requests: Promise<unknown>[] = [idb.done];
    try {
      const now: Uint8Array | undefined = await idb.objectStore(HEAD).get(ONLY);
      if (!same(now, raw)) throw new StoreError("storage", "somebody else wrote without the lock");
      for (const { name, key, value } of puts) {
        const store = idb.objectStore(name);
        requests.push(value === null ? store.delete(idbKey(key)) : store.put(value, idbKey(key)));
      }
    } catch (error) {
      idb.done.catch(() => {});
      try {
        idb.abort();
      } catch {
        // it aborted by itself
      }
      await Promise.allSettled(requests);
      throw error;
    }
    await Promise.all(requests).catch(async (error) => {
      await Promise.allSettled(requests);
      throw error;
    });
    for (const id of tx.changedSmall.keys()) {
      const state = this.small.get(id);
      if (state !== undefined) state.version = head.version;
    }
    return true;
  }

  private async smallKey(id: number, key: string): Promise<Key> {
    return [id, await this.blind(pack([id, key]))];
  }

  // ---------------------------------------------------------------- sealing

  private async seal(name: string, key: Key, row: object): Promise<Uint8Array<ArrayBuffer>> {
    const iv = this.options.random(NONCE_BYTES).slice();
    const additionalData = pack([name, key as Packable]);
    const data = pack(row as unknown as Packable);
    const sealed = await crypto.subtle.encrypt({ name: "AES-GCM", iv, additionalData }, this.keys.sealing, data);
    return joined(iv, new Uint8Array(sealed));
  }

  private async unseal(name: string, key: Key, data: Uint8Array<ArrayBuffer>): Promise<object> {
    const iv = data.subarray(0, NONCE_BYTES);
    const additionalData = pack([name, key as Packable]);
    const sealed = data.subarray(NONCE_BYTES);
    try {
      const opened = await crypto.subtle.decrypt({ name: "AES-GCM", iv, additionalData }, this.keys.sealing, sealed);
      return rowOf(unpack(new Uint8Array(opened))) as object;
    } catch (error) {
      if (error instanceof PackingError || (error instanceof DOMException && error.name === "OperationError")) {
        throw new StoreError("damaged", `a record of ${name} does not open`, { cause: error });
      }
      throw error;
    }
  }

  private check(): void {
    if (this.closedBecause !== null) throw this.closedBecause;
  }

  private taken(error: StoreError): void {
    if (this.closedBecause !== null) return;
    this.lose(error);
    this.onLost(error);
  }

  private lose(error: StoreError): void {
    this.closedBecause ??= error;
    this.db.close();
    this.small.clear();
  }
}

/** The changes of a step to one large table, by key and by place in an index. */
class Changes {
  readonly all = new Map<string, Change>();
  private readonly places = new Map<string, Map<string, Change>>();

  constructor(private readonly indexes: Large<object>["indexes"]) {}

  set(change: Change): void {
    const name = textOf(change.key);
    const before = this.all.get(name);
    for (const place of before === undefined ? [] : this.placesOf(before)) this.places.get(place)?.delete(name);
    this.all.set(name, change);
    for (const place of this.placesOf(change)) {
      const there = this.places.get(place) ?? new Map<string, Change>();
      there.set(name, change);
      this.places.set(place, there);
    }
  }

  /** Those that may lie in the range: for one place of an index exactly those, else all. */
  candidates({ index, from, to }: Scan): Iterable<Change> {
    if (index === undefined || from === undefined || from !== to) return this.all.values();
    return this.places.get(`${index} ${textOf(from)}`)?.values() ?? [];
  }

  private placesOf({ key, value }: Change): string[] {
    if (value === null) return [];
    const found = Object.entries(this.indexes).map(
      ([index, path]) => [index, placeOf(path, key, value.plain)] as const,
    );
    return found.flatMap(([index, at]) => (at === null ? [] : [`${index} ${textOf(at)}`]));
  }
}

/** What a step reads and changes. Reads see the changes of the same step. Not to be used when the step has ended. */
export class Transaction {
  /** Small tables that were changed here. */
  readonly changedSmall = new Map<number, Set<string>>();
  readonly changedLarge = new Map<string, Changes>();
  private ended = false;

  constructor(
    private readonly database: Database,
    private readonly head: Head,
    private readonly writable: boolean,
  ) {}

  /** Small tables whose rows in memory may differ from those that are stored. */
  get touched(): Iterable<number> {
    return this.changedSmall.keys();
  }

  end(): void {
    this.ended = true;
  }

  /** The next running number of this name: 1, 2, 3, … */
  take(name: string): number {
    this.checkWritable();
    const n = this.head.next.get(name) ?? 1;
    this.head.next.set(name, n + 1);
    return n;
  }

  /** The highest that was taken; 0: none. */
  taken(name: string): number {
    return (this.head.next.get(name) ?? 1) - 1;
  }

  /** All rows of a small table, by key. Not to be changed. */
  async rows<R extends object>(table: Small<R>): Promise<ReadonlyMap<string, R>> {
    this.check();
    return (await this.database.rowsOf(table.id, this.head)) as Map<string, R>;
  }

  async row<R extends object>(table: Small<R>, key: string): Promise<R | null> {
    return (await this.rows(table)).get(key) ?? null;
  }

  /** null deletes. */
  async setRow<R extends object>(table: Small<R>, key: string, row: R | null): Promise<void> {
    await this.update(table, key, () => row);
  }

  /** Put what *change* makes of the row (null: there is none) in its place; null deletes it. */
  async update<R extends object>(table: Small<R>, key: string, change: (row: R | null) => R | null): Promise<void> {
    this.checkWritable();
    const rows = await this.database.rowsOf(table.id, this.head);
    this.checkWritable();
    const before = rows.get(key) ?? null;
    const after = change(before as R | null);
    if (after === before) return;
    let changed = this.changedSmall.get(table.id);
    if (changed === undefined) {
      changed = new Set();
      this.changedSmall.set(table.id, changed);
    }
    changed.add(key);
    if (after === null) rows.delete(key);
    else rows.set(key, after);
  }

  async record<R extends object>(table: Large<R>, key: Key): Promise<R | null> {
    const [row] = await this.records(table, [key]);
    return row ?? null;
  }

  /** The records with these keys, in this order; null where there is none. */
  async records<R extends object>(table: Large<R>, keys: readonly Key[]): Promise<(R | null)[]> {
    this.check();
    const changes = this.changedLarge.get(table.name)?.all;
    const stored = keys.filter((key) => !changes?.has(textOf(key)));
    const read = await this.database.recordsOf(table, stored);
    const found = new Map(stored.map((key, at) => [textOf(key), read[at] ?? null]));
    return keys.map((key) => {
      const change = changes?.get(textOf(key));
      return (change === undefined ? (found.get(textOf(key)) ?? null) : (change.value?.row ?? null)) as R | null;
    });
  }

  /** null deletes. */
  setRecord<R extends object>(table: Large<R>, key: Key, row: R | null, plain: Plain = {}): void {
    this.checkWritable();
    let changes = this.changedLarge.get(table.name);
    if (changes === undefined) {
      changes = new Changes(table.indexes);
      this.changedLarge.set(table.name, changes);
    }
    changes.set({ key, value: row === null ? null : { plain, row } });
  }

  /** The records of the range in order, those changed in this step in their places. */
  async scan<R extends object>(table: Large<R>, scan: Scan): Promise<{ key: Key; row: R }[]> {
    return (await this.part(table, scan)).found;
  }

  /** `scan`, and whether there are more than the limit; those are not opened. */
  async part<R extends object>(table: Large<R>, scan: Scan): Promise<{ found: { key: Key; row: R }[]; more: boolean }> {
    this.check();
    const changes = this.changedLarge.get(table.name);
    const limit = scan.limit ?? Number.POSITIVE_INFINITY;
    const stored = await this.database.scanned(table.name, scan, limit + 1 + (changes?.all.size ?? 0));
    const path = scan.index === undefined ? null : (table.indexes[scan.index] ?? []);
    const found: { at: Key; key: Key; stored: Stored | null; row: object | null }[] = [];
    for (const one of stored) {
      if (changes?.all.has(textOf(one.key))) continue;
      found.push({ at: placeOf(path, one.key, one.stored) ?? one.key, key: one.key, stored: one.stored, row: null });
    }
    if (changes !== undefined && changes.all.size > 0) {
      const range = rangeOf(scan);
      for (const { key, value } of changes.candidates(scan)) {
        const at = value === null ? null : placeOf(path, key, value.plain);
        if (isWithin(range, at)) found.push({ at, key, stored: null, row: value?.row ?? null });
      }
      const order = scan.newestFirst ? -1 : 1;
      found.sort((one, other) => order * (compareKeys(one.at, other.at) || compareKeys(one.key, other.key)));
    }
    const opened = found.slice(0, limit).map(async ({ key, stored, row }) => {
      const known = row ?? (await this.database.recordOf(table, key, stored ?? undefined));
      return { key, row: known as R };
    });
    return { found: await Promise.all(opened), more: found.length > limit };
  }

  /** Delete the records of the range; nothing is opened for it. */
  async deleteRange<R extends object>(table: Large<R>, scan: Pick<Scan, "index" | "from" | "to">): Promise<void> {
    this.checkWritable();
    const changes = [...(this.changedLarge.get(table.name)?.all.values() ?? [])];
    const changed = new Set(changes.map(({ key }) => textOf(key)));
    const stored = (await this.database.keysIn(table.name, scan)).filter((key) => !changed.has(textOf(key)));
    const path = scan.index === undefined ? null : (table.indexes[scan.index] ?? []);
    const range = rangeOf(scan);
    const made = changes.filter(({ key, value }) => value !== null && isWithin(range, placeOf(path, key, value.plain)));
    for (const key of [...stored, ...made.map((change) => change.key)]) this.setRecord(table, key, null);
  }

  /** 16 bytes that stand for *data* in this database. */
  blind(...data: Uint8Array[]): Promise<Uint8Array<ArrayBuffer>> {
    return this.database.blind(pack(data));
  }

  private check(): void {
    if (this.ended) throw new Error("the transaction has ended");
  }

  private checkWritable(): void {
    this.check();
    if (!this.writable) throw new Error("the transaction only reads");
  }
}

// ---------------------------------------------------------------- opening

async function openTables(options: DatabaseOptions, lost: (error: StoreError) => void): Promise<IDBPDatabase> {
  let db: IDBPDatabase | null = null;
  try {
    db = await openDB(options.name, options.schema, {
      upgrade(fresh, oldVersion, _newVersion, tx) {
        if (oldVersion === 0) for (const name of [KEYS, HEAD, ROWS]) fresh.createObjectStore(name);
        for (const { name, indexes } of options.large) {
          const store = fresh.objectStoreNames.contains(name) ? tx.objectStore(name) : fresh.createObjectStore(name);
          for (const [index, path] of Object.entries(indexes)) {
            if (!store.indexNames.contains(index)) store.createIndex(index, path as string | string[]);
          }
        }
      },
      blocking(_current, next) {
        db?.close();
        lost(
          next === null
            ? new StoreError("storage", "the database was deleted")
            : new StoreError("newer", "a newer version of the app opened the database"),
        );
      },
      terminated() {
        lost(new StoreError("storage", "the browser closed the database"));
      },
    });
    return db;
  } catch (error) {
    if (error instanceof DOMException && error.name === "VersionError") {
      throw new StoreError("newer", "a newer version of the app has written the database", { cause: error });
    }
    throw failed(error);
  }
}

/** The keys of the database, made together with its head when it is new. */
async function keysOf(db: IDBPDatabase, options: DatabaseOptions): Promise<Keys> {
  const tx = db.transaction([KEYS, HEAD], "readonly");
  const [keys, head] = await Promise.all([
    tx.objectStore(KEYS).get(ONLY) as Promise<Keys | undefined>,
    tx.objectStore(HEAD).get(ONLY) as Promise<Uint8Array | undefined>,
  ]);
  if (keys !== undefined && head !== undefined) return keys;
  const names = [ROWS, ...options.large.map(({ name }) => name)];
  const counts = await Promise.all(names.map((name) => db.count(name)));
  if (keys !== undefined || head !== undefined || counts.some((count) => count > 0)) {
    throw new StoreError("damaged", "the keys of the database are missing");
  }
  const made: Keys = {
    sealing: await crypto.subtle.generateKey({ name: "AES-GCM", length: 256 }, false, ["encrypt", "decrypt"]),
    blinding: await crypto.subtle.generateKey({ name: "HMAC", hash: "SHA-256" }, false, ["sign"]),
  };
  const iv = options.random(NONCE_BYTES).slice();
  const sealed = await crypto.subtle.encrypt(
    { name: "AES-GCM", iv, additionalData: pack([HEAD, ONLY]) },
    made.sealing,
    pack({ version: 0, small: [], next: [] }),
  );
  const writing = db.transaction([KEYS, HEAD], "readwrite", { durability: "strict" });
  await Promise.all([
    writing.objectStore(KEYS).put(made, ONLY),
    writing.objectStore(HEAD).put(joined(iv, new Uint8Array(sealed)), ONLY),
    writing.done,
  ]);
  return made;
}

/** Delete the database; tabs that do not let go of it within some seconds keep noise. */
function deleted(name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.deleteDatabase(name);
    const timer = setTimeout(resolve, ERASE_MS);
    request.onsuccess = () => {
      clearTimeout(timer);
      resolve();
    };
    request.onerror = () => {
      clearTimeout(timer);
      reject(failed(request.error));
    };
  });
}

async function locked<T>(
  { name, locks }: DatabaseOptions,
  mode: "exclusive" | "shared",
  work: () => Promise<T>,
): Promise<T> {
  // Never more than one wait is cut off by this: once the lock is held, the signal has no meaning.
  const waiting = new AbortController();
  const timer = setTimeout(() => waiting.abort(), LOCK_MS);
  let held = false;
  try {
    return await locks.request(`${name}-store`, { mode, signal: waiting.signal }, async () => {
      held = true;
      clearTimeout(timer);
      return await work();
    });
  } catch (error) {
    if (!held && waiting.signal.aborted) throw new StoreError("storage", "another tab works for too long");
    throw failed(error);
  } finally {
    clearTimeout(timer);
  }
}

/** What IndexedDB and WebCrypto throw, as a StoreError; anything else as it is. */
function failed(error: unknown): unknown {
  if (!(error instanceof DOMException)) return error;
  return new StoreError("storage", `${error.name}: ${error.message}`, { cause: error });
}

// ---------------------------------------------------------------- keys and rows

/** IndexedDB wants arrays that may be changed, and gives out bytes as ArrayBuffer. */
function idbKey(key: Key): IDBValidKey {
  return key as IDBValidKey;
}

function ourKey(key: IDBValidKey): Key {
  if (Array.isArray(key)) return key.map(ourKey);
  if (key instanceof ArrayBuffer) return new Uint8Array(key);
  if (ArrayBuffer.isView(key)) return new Uint8Array(key.buffer as ArrayBuffer, key.byteOffset, key.byteLength);
  return key as number;
}

function textOf(key: Key): string {
  if (typeof key === "number") return String(key);
  return key instanceof Uint8Array ? hex(key) : key.map(textOf).join("/");
}

/** Where a record stands in an index, or among the keys if *path* is null; null: it does not stand there. */
function placeOf(path: string | readonly string[] | null, key: Key, plain: Plain): Key | null {
  if (path === null) return key;
  if (typeof path === "string") return plain[path] ?? null;
  const parts = path.map((name) => plain[name]);
  return parts.some((part) => part === undefined) ? null : (parts as Key[]);
}

function rangeOf({ from, to }: Pick<Scan, "from" | "to">): IDBKeyRange | null {
  if (from !== undefined && to !== undefined) return IDBKeyRange.bound(idbKey(from), idbKey(to));
  if (from !== undefined) return IDBKeyRange.lowerBound(idbKey(from));
  return to === undefined ? null : IDBKeyRange.upperBound(idbKey(to));
}

function isWithin(range: IDBKeyRange | null, at: Key | null): at is Key {
  return at !== null && (range?.includes(idbKey(at)) ?? true);
}

function compareKeys(one: Key, other: Key): number {
  return indexedDB.cmp(idbKey(one), idbKey(other));
}

/** Maps of text as objects, all the way down. */
function rowOf(value: Unpacked): unknown {
  if (value instanceof Map) return Object.fromEntries([...value].map(([name, item]) => [name, rowOf(item)]));
  return Array.isArray(value) ? value.map(rowOf) : value;
}

/** The key of a row of a small table that is found by bytes. */
export function nameOf(...parts: readonly Uint8Array[]): string {
  return parts.map(hex).join(".");
}

/** The inverse for one part. */
export function bytesOf(name: string): Uint8Array<ArrayBuffer> {
  return unhex(name);
}
