/** Web Locks of one browser, for Node, which has none: exclusive, in the order of asking, with what the app uses of them. */

import type { Locks } from "../src/client/sync";

interface Waiting {
  grant(): void;
}

/** The locks that all tabs of one browser share. */
export class BrowserLocks implements Locks {
  private readonly queues = new Map<string, Waiting[]>();

  async request<T>(
    name: string,
    options: { ifAvailable?: boolean; signal?: AbortSignal },
    callback: (lock: unknown) => Promise<T>,
  ): Promise<T> {
    const queue = this.queues.get(name) ?? [];
    this.queues.set(name, queue);
    if (options.ifAvailable && queue.length > 0) return callback(null);
    await new Promise<void>((resolve, reject) => {
      const waiting: Waiting = { grant: resolve };
      queue.push(waiting);
      if (queue[0] === waiting) resolve();
      options.signal?.addEventListener("abort", () => {
        const at = queue.indexOf(waiting);
        if (at <= 0) return;
        queue.splice(at, 1);
        reject(new DOMException("given up", "AbortError"));
      });
    });
    try {
      return await callback({ name });
    } finally {
      queue.shift();
      queue[0]?.grant();
    }
  }
}
