// The browser's storage, which may be forbidden or full. Values that it does not accept are kept in memory,
// so that the page works until it is closed. `set` returns whether the value was stored.

export class Shelf {
  #area = null;
  #unsaved = new Map();

  /** @param {'localStorage' | 'sessionStorage'} name */
  constructor(name) {
    try {
      // Where storage is forbidden, accessing the property throws.
      this.#area = window[name];
      this.#area.getItem('lapidary');
    } catch {
      this.#area = null;
    }
  }

  /** Whether stored values are kept after the page is closed. */
  get lasting() {
    return this.#area !== null;
  }

  get(key) {
    return this.#unsaved.get(key) ?? this.#area?.getItem(key) ?? null;
  }

  /** Returns whether the value will be kept after the page is closed. */
  set(key, value) {
    try {
      if (!this.#area) throw new Error('no storage');
      this.#area.setItem(key, value);
      this.#unsaved.delete(key);
      return true;
    } catch {
      this.#unsaved.set(key, value);
      return false;
    }
  }

  remove(key) {
    this.#unsaved.delete(key);
    this.#area?.removeItem(key);
  }

  /** All keys that begin with `prefix`, in no particular order. */
  keys(prefix) {
    const stored = this.#area ? Object.keys(this.#area) : [];
    return [...new Set([...stored, ...this.#unsaved.keys()])].filter((key) => key.startsWith(prefix));
  }
}

export const local = new Shelf('localStorage');
export const session = new Shelf('sessionStorage');
