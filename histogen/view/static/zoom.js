/* A canvas with a picture in squares, that is dragged, zoomed and walked by keyboard; what lies over it is drawn by
   `overlay(context, view)`. Places are level-0 pixels. */
"use strict";

const SQUARE = 256;
const KEPT = 300;

H.Zoom = class {
  constructor({ width, height, zooms, finest, squareUrl, overlay, onpick, onlost, label }) {
    Object.assign(this, { width, height, zooms, finest, squareUrl, overlay, onpick, onlost });
    this.squares = new Map();
    this.canvas = H.el("canvas", { class: "zoom", tabindex: "0", role: "application", "aria-label": label });
    this.x = this.y = 0;
    this.scale = 1; // level-0 pixels per pixel of the screen
    this.listen();
    this.watcher = new ResizeObserver(() => this.resized());
    this.watcher.observe(this.canvas);
  }

  close() {
    this.watcher.disconnect();
  }

  resized() {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth) return;
    const first = !this.across;
    this.across = clientWidth;
    this.down = clientHeight;
    const dense = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(clientWidth * dense);
    this.canvas.height = Math.round(clientHeight * dense);
    if (first) this.fit();
    this.draw();
  }

  fit() {
    this.scale = Math.max(this.width / this.across, this.height / this.down) * 1.02;
    this.x = this.width / 2 - (this.across * this.scale) / 2;
    this.y = this.height / 2 - (this.down * this.scale) / 2;
    this.draw();
  }

  /* Show a rectangle of level 0. */
  show(x, y, width, height) {
    this.scale = Math.max(width / this.across, height / this.down);
    this.x = x + width / 2 - (this.across * this.scale) / 2;
    this.y = y + height / 2 - (this.down * this.scale) / 2;
    this.draw();
  }

  zoomBy(factor, atX = this.across / 2, atY = this.down / 2) {
    const most = Math.max(this.width / this.across, this.height / this.down) * 2;
    const scale = Math.min(Math.max(this.scale * factor, 1 / 16), most);
    this.x += atX * (this.scale - scale);
    this.y += atY * (this.scale - scale);
    this.scale = scale;
    this.draw();
  }

  moveBy(across, down) {
    this.x += across * this.scale;
    this.y += down * this.scale;
    this.draw();
  }

  listen() {
    const canvas = this.canvas;
    const fingers = new Map();
    let moved = 0;
    let apart = 0;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
      moved = 0;
      apart = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const from = fingers.get(event.pointerId);
      if (!from) return;
      moved += Math.abs(event.offsetX - from[0]) + Math.abs(event.offsetY - from[1]);
      fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
      if (fingers.size === 1) this.moveBy(from[0] - event.offsetX, from[1] - event.offsetY);
      if (fingers.size === 2) {
        const [[x0, y0], [x1, y1]] = fingers.values();
        const now = Math.hypot(x1 - x0, y1 - y0);
        if (apart) this.zoomBy(apart / now, (x0 + x1) / 2, (y0 + y1) / 2);
        apart = now;
      }
    });
    const up = (event) => {
      if (fingers.delete(event.pointerId) && moved < 6 && event.type === "pointerup") this.pick(event.offsetX, event.offsetY);
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(1.0015 ** event.deltaY, event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.draw());
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const far = 80;
    const done = {
      ArrowLeft: () => this.moveBy(-far, 0), ArrowRight: () => this.moveBy(far, 0),
      ArrowUp: () => this.moveBy(0, -far), ArrowDown: () => this.moveBy(0, far),
      "+": () => this.zoomBy(0.7), "=": () => this.zoomBy(0.7), "-": () => this.zoomBy(1 / 0.7), 0: () => this.fit(),
      Enter: () => this.pick(this.across / 2, this.down / 2),
    }[event.key];
    if (!done || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    done();
  }

  pick(x, y) {
    this.onpick?.(this.x + x * this.scale, this.y + y * this.scale);
  }

  draw() {
    if (this.waits || !this.across) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      this.paint();
    });
  }

  paint() {
    const context = this.canvas.getContext("2d");
    const dense = this.canvas.width / this.across;
    context.setTransform(dense, 0, 0, dense, 0, 0);
    context.clearRect(0, 0, this.across, this.down);
    if (this.zooms) {
      const best = Math.min(Math.max(Math.floor(Math.log2(this.scale / 1.4 * dense) + 0.5), this.finest), this.zooms - 1);
      const from = Math.min(best + 3, this.zooms - 1);
      for (let zoom = from; zoom >= best; zoom -= 1) this.paintZoom(context, zoom, zoom === best || zoom === from);
    }
    this.overlay?.(context, this);
    if (document.activeElement === this.canvas) this.paintCross(context);
  }

  /* Squares of a coarser zoom lie under the finer ones that have not come yet. */
  paintZoom(context, zoom, load) {
    const size = SQUARE * 2 ** zoom;
    const [left, top] = [Math.max(Math.floor(this.x / size), 0), Math.max(Math.floor(this.y / size), 0)];
    const right = Math.min(Math.ceil((this.x + this.across * this.scale) / size), Math.ceil(this.width / size));
    const bottom = Math.min(Math.ceil((this.y + this.down * this.scale) / size), Math.ceil(this.height / size));
    for (let row = top; row < bottom; row += 1) {
      for (let column = left; column < right; column += 1) {
        const image = this.square(`${zoom}/${column}_${row}`, load);
        if (!image?.naturalWidth) continue;
        const side = 2 ** zoom / this.scale;
        context.drawImage(image, (column * size - this.x) / this.scale, (row * size - this.y) / this.scale,
          image.naturalWidth * side + 0.5, image.naturalHeight * side + 0.5);
      }
    }
  }

  square(name, load) {
    let image = this.squares.get(name);
    if (!image && load) {
      image = new Image();
      image.onload = () => this.draw();
      image.onerror = () => {
        this.onlost?.(name);
        this.onlost = null; // the first says why
      };
      image.src = this.squareUrl(name);
    }
    if (image) {
      this.squares.delete(name);
      this.squares.set(name, image);
      if (this.squares.size > KEPT) this.squares.delete(this.squares.keys().next().value);
    }
    return image;
  }

  paintCross(context) {
    context.strokeStyle = "#d55e00";
    context.lineWidth = 2;
    const [x, y] = [this.across / 2, this.down / 2];
    context.strokeRect(x - 6, y - 6, 12, 12);
  }
};
