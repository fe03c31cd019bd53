// The browser's storage, which may be forbidden or full. What it does not take is kept in memory, so that
// the page works on until it is closed; `set` says which of the two happened.

export class Shelf {
  #area = null;
  #unsaved = new Map();

  /** @param {'localStorage' | 'sessionStorage'} name */
  constructor(name) {
    try {
      // Merely to name it throws where storage is forbidden.
      this.#area = window[name];
      this.#area.getItem('lapidary');
    } catch {
      this.#area = null;
    }
  }

  /** Whether there is anything that outlives the page. */
  get lasting() {
    return this.#area !== null;
  }

  get(key) {
    return this.#unsaved.get(key) ?? this.#area?.getItem(key) ?? null;
  }

  /** Returns whether the value will still be there after the page. */
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

  /** Names that begin with `prefix`, in no order. */
  keys(prefix) {
    const stored = this.#area ? Object.keys(this.#area) : [];
    return [...new Set([...stored, ...this.#unsaved.keys()])].filter((key) => key.startsWith(prefix));
  }
}

export const local = new Shelf('localStorage');
export const session = new Shelf('sessionStorage');
