/**
 * Waiting for something to do: a bell that one loop waits for, and that any number of others ring.
 *
 * A ring while nobody waits is kept for the next wait, so none is lost. This file knows no clock but the waiting itself.
 */

/** One waiter at a time. */
export class Wake {
  private rung = false;
  private answer: (() => void) | null = null;

  /** End the wait under way, or the next one. */
  ring(): void {
    if (this.answer === null) this.rung = true;
    else this.answer();
  }

  /** Resolves at the next ring, or after *timeoutMs*. */
  async wait(timeoutMs: number): Promise<void> {
    if (!this.rung) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.min(timeoutMs, MOST_MS));
        this.answer = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    this.answer = null;
    this.rung = false;
  }
}

/** setTimeout takes no more. */
const MOST_MS = 2 ** 31 - 1;
