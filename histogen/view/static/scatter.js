/* Points by WebGL, a million of them; which is nearest, and which lie in a lasso. */
"use strict";

const VERTEX = `
attribute vec2 place; attribute vec4 colour; uniform vec2 middle; uniform vec2 scale; uniform float size; varying vec4 shade;
void main() { gl_Position = vec4((place - middle) * scale, 0.0, 1.0); gl_PointSize = size; shade = colour; }`;
const FRAGMENT = `
precision mediump float; varying vec4 shade;
void main() { vec2 away = gl_PointCoord - 0.5; if (dot(away, away) > 0.25) discard; gl_FragColor = vec4(shade.rgb * shade.a, shade.a); }`;
const CELLS = 512;

H.Scatter = class {
  constructor({ x, y, label, onhover, onpick, onlasso }) {
    Object.assign(this, { x, y, onhover, onpick, onlasso });
    this.points = H.el("canvas", { class: "points", "aria-hidden": "true" });
    this.canvas = H.el("canvas", { class: "zoom", tabindex: "0", role: "application", "aria-label": label });
    this.element = H.el("div", { class: "scatter" }, this.points, this.canvas);
    this.gl = this.points.getContext("webgl", { antialias: false });
    if (!this.gl) throw new Error("This browser has no WebGL, which the map needs; turn on hardware acceleration, or use another.");
    this.prepare();
    this.index();
    this.listen();
    this.watcher = new ResizeObserver(() => this.resized());
    this.watcher.observe(this.canvas);
  }

  close() {
    this.watcher.disconnect();
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }

  prepare() {
    const gl = this.gl;
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.at = Object.fromEntries(["middle", "scale", "size"].map((name) => [name, gl.getUniformLocation(program, name)]));
    const places = new Float32Array(2 * this.x.length);
    for (let k = 0; k < this.x.length; k += 1) places.set([this.x[k], this.y[k]], 2 * k);
    this.attribute(program, "place", places, 2, gl.FLOAT);
    this.colours = new Uint8Array(4 * this.x.length).fill(160);
    this.buffer = this.attribute(program, "colour", this.colours, 4, gl.UNSIGNED_BYTE);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  attribute(program, name, values, width, type) {
    const gl = this.gl;
    const buffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.DYNAMIC_DRAW);
    const place = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, width, type, type === gl.UNSIGNED_BYTE, 0, 0);
    return buffer;
  }

  /* Points by cell of a grid over all, so that what is near is found without looking at each. */
  index() {
    const ends = (values) => values.reduce(([low, high], one) => [Math.min(low, one), Math.max(high, one)], [Infinity, -Infinity]);
    [this.x0, this.x1] = ends(this.x);
    [this.y0, this.y1] = ends(this.y);
    const count = new Int32Array(CELLS * CELLS + 1);
    const cells = Int32Array.from(this.x, (x, k) => this.cell(x, this.x0, this.x1) + CELLS * this.cell(this.y[k], this.y0, this.y1));
    for (const cell of cells) count[cell + 1] += 1;
    for (let cell = 0; cell < CELLS * CELLS; cell += 1) count[cell + 1] += count[cell];
    this.first = count.slice();
    this.order = new Int32Array(cells.length);
    cells.forEach((cell, k) => { this.order[count[cell]] = k; count[cell] += 1; });
  }

  cell(value, low, high) {
    return Math.min(Math.max(Math.floor(((value - low) / (high - low || 1)) * CELLS), 0), CELLS - 1);
  }

  * within(left, right, low, high) {
    const [c0, c1] = [this.cell(left, this.x0, this.x1), this.cell(right, this.x0, this.x1)];
    for (let row = this.cell(low, this.y0, this.y1); row <= this.cell(high, this.y0, this.y1); row += 1) {
      for (let place = this.first[c0 + CELLS * row]; place < this.first[c1 + 1 + CELLS * row]; place += 1) yield this.order[place];
    }
  }

  recolour(colourOf) {
    const seen = new Map();
    for (let k = 0; k < this.x.length; k += 1) {
      const colour = colourOf(k);
      if (!seen.has(colour)) seen.set(colour, [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
      this.colours.set([...seen.get(colour), 215], 4 * k);
    }
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.buffer);
    this.gl.bufferData(this.gl.ARRAY_BUFFER, this.colours, this.gl.DYNAMIC_DRAW);
    this.draw();
  }

  resized() {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth) return;
    const first = !this.across;
    [this.across, this.down] = [clientWidth, clientHeight];
    this.dense = window.devicePixelRatio || 1;
    for (const canvas of [this.canvas, this.points]) {
      canvas.width = Math.round(clientWidth * this.dense);
      canvas.height = Math.round(clientHeight * this.dense);
    }
    if (first) this.fit();
    this.draw();
  }

  fit() {
    this.scale = Math.max((this.x1 - this.x0) / this.across, (this.y1 - this.y0) / this.down, 1e-9) * 1.06;
    this.middle = [(this.x0 + this.x1) / 2, (this.y0 + this.y1) / 2];
    this.draw();
  }

  zoomBy(factor, atX = this.across / 2, atY = this.down / 2) {
    const [x, y] = this.toMap(atX, atY);
    this.scale *= factor;
    const [u, v] = this.toMap(atX, atY);
    this.middle = [this.middle[0] + x - u, this.middle[1] + y - v];
    this.draw();
  }

  moveBy(across, down) {
    this.middle = [this.middle[0] + across * this.scale, this.middle[1] - down * this.scale];
    this.draw();
  }

  toMap(x, y) {
    return [this.middle[0] + (x - this.across / 2) * this.scale, this.middle[1] - (y - this.down / 2) * this.scale];
  }

  toScreen(k) {
    return [(this.x[k] - this.middle[0]) / this.scale + this.across / 2, (this.middle[1] - this.y[k]) / this.scale + this.down / 2];
  }

  /* The point nearest to a place of the screen, within `reach` pixels. */
  nearest(x, y, reach) {
    const [mapX, mapY] = this.toMap(x, y);
    const far = reach * this.scale;
    let [best, found] = [far * far, null];
    for (const k of this.within(mapX - far, mapX + far, mapY - far, mapY + far)) {
      const away = (this.x[k] - mapX) ** 2 + (this.y[k] - mapY) ** 2;
      if (away < best) [best, found] = [away, k];
    }
    return found;
  }

  /* The points within a polygon of places of the screen. */
  inside(polygon) {
    const shape = polygon.map(([x, y]) => this.toMap(x, y));
    const [xs, ys] = [shape.map(([x]) => x), shape.map(([, y]) => y)];
    const found = [];
    for (const k of this.within(Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys))) {
      let odd = false;
      for (let a = 0, b = shape.length - 1; a < shape.length; b = a, a += 1) {
        const [[xa, ya], [xb, yb]] = [shape[a], shape[b]];
        if (ya > this.y[k] !== yb > this.y[k] && this.x[k] < ((xb - xa) * (this.y[k] - ya)) / (yb - ya) + xa) odd = !odd;
      }
      if (odd) found.push(k);
    }
    return found.sort((a, b) => a - b);
  }

  listen() {
    const canvas = this.canvas;
    let from = null;
    let moved = 0;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      from = [event.offsetX, event.offsetY];
      moved = 0;
      this.lasso = this.lassoing || event.shiftKey ? [from] : null;
    });
    canvas.addEventListener("pointermove", (event) => {
      const here = [event.offsetX, event.offsetY];
      if (!from) {
        this.hover(this.nearest(...here, 9));
        return;
      }
      moved += Math.abs(here[0] - from[0]) + Math.abs(here[1] - from[1]);
      if (this.lasso) this.lasso.push(here);
      else this.moveBy(from[0] - here[0], from[1] - here[1]);
      from = here;
      this.draw();
    });
    canvas.addEventListener("pointerup", (event) => {
      const found = moved < 6 ? this.nearest(event.offsetX, event.offsetY, 9) : null;
      if (found !== null) this.onpick(found);
      if (this.lasso?.length > 3) this.onlasso(this.inside(this.lasso));
      from = null;
      this.draw();
    });
    canvas.addEventListener("pointercancel", () => { from = null; });
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(1.0015 ** event.deltaY, event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const done = {
      ArrowLeft: () => this.moveBy(-60, 0), ArrowRight: () => this.moveBy(60, 0), ArrowUp: () => this.moveBy(0, -60),
      ArrowDown: () => this.moveBy(0, 60), "+": () => this.zoomBy(0.7), "=": () => this.zoomBy(0.7),
      "-": () => this.zoomBy(1 / 0.7), 0: () => this.fit(),
      Enter: () => {
        const found = this.nearest(this.across / 2, this.down / 2, 200);
        if (found !== null) this.onpick(found);
      },
    }[event.key];
    if (!done || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    done();
    this.draw();
  }

  hover(found) {
    if (found === this.hovered) return;
    this.hovered = found;
    this.onhover(found, found === null ? null : this.toScreen(found));
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
    const gl = this.gl;
    gl.viewport(0, 0, this.points.width, this.points.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform2f(this.at.middle, ...this.middle);
    gl.uniform2f(this.at.scale, 2 / (this.across * this.scale), 2 / (this.down * this.scale));
    gl.uniform1f(this.at.size, this.dense * Math.min(Math.max(10 - 1.4 * Math.log10(this.x.length), 2), 8));
    gl.drawArrays(gl.POINTS, 0, this.x.length);
    const context = this.canvas.getContext("2d");
    context.setTransform(this.dense, 0, 0, this.dense, 0, 0);
    context.clearRect(0, 0, this.across, this.down);
    context.strokeStyle = "#d55e00";
    context.lineWidth = 2;
    if (this.lasso?.length > 1) context.stroke(new Path2D(`M${this.lasso.map((place) => place.join(" ")).join("L")}Z`));
    if (document.activeElement === this.canvas) context.strokeRect(this.across / 2 - 6, this.down / 2 - 6, 12, 12);
  }
};
