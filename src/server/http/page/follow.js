// Keeps the end of a growing text in view, unless the reader has scrolled away from it.

const NEAR = 24;

export class Follow {
  /** @param {HTMLElement} box the scrolling element  @param {HTMLElement} button scrolls back to the end */
  constructor(box, button) {
    this.box = box;
    this.button = button;
    this.following = true;
    this.last = 0;
    box.addEventListener('scroll', () => this.scrolled(), { passive: true });
    box.addEventListener('wheel', ({ deltaY }) => {
      // Stop following before the next text scrolls back to the end.
      if (deltaY < 0 && box.scrollHeight > box.clientHeight) this.following = false;
    }, { passive: true });
    button.addEventListener('click', () => {
      this.toEnd();
      box.focus({ preventScroll: true });
    });
    new ResizeObserver(() => this.grown()).observe(box);
  }

  /** Call this when the text has changed. */
  grown() {
    if (this.following) this.toEnd();
    this.showButton();
  }

  toEnd() {
    this.following = true;
    this.box.scrollTop = this.box.scrollHeight;
    this.last = this.box.scrollTop;
    this.showButton();
  }

  scrolled() {
    const up = this.box.scrollTop < this.last;
    this.last = this.box.scrollTop;
    if (this.distance() < NEAR) this.following = !up || this.distance() < 2;
    else if (up) this.following = false;
    this.showButton();
  }

  distance() {
    return this.box.scrollHeight - this.box.clientHeight - this.box.scrollTop;
  }

  showButton() {
    this.button.hidden = this.following || this.distance() < NEAR;
  }
}
