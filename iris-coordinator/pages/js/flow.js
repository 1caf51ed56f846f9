// Tasks on their way to nodes, as a moving picture.
//
// Nodes stand still and are drawn once for each change; what moves is drawn in every frame, and
// no more of it than a screen can show.

const TIERS = ["PRO", "MID", "BASIC"];
/** Most tasks that are seen on their way at a time. */
const MOVING = 400;
/** Milliseconds that a task is on its way. */
const WAY = 900;

export class Flow {
  #canvas;
  #still = document.createElement("canvas");
  #nodes = [];
  #places = new Map();
  #moving = [];
  #isStale = true;
  #isPaused = false;
  #isCalm = matchMedia("(prefers-reduced-motion: reduce)");
  #colours = {};
  #frame = null;
  #focus = null;
  /** Called with the node that is pointed at, or `null`. */
  onPoint = () => {};
  /** Milliseconds that drawing the last frames took, for tests. */
  costs = [];

  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.#resize()).observe(canvas);
    document.addEventListener("theme", () => this.#recolour());
    document.addEventListener("visibilitychange", () => this.#wake());
    canvas.addEventListener("pointermove", (event) => this.#point(event));
    canvas.addEventListener("pointerdown", (event) => this.#point(event));
    canvas.addEventListener("pointerleave", () => this.#setFocus(null));
    this.#recolour();
    this.#resize();
  }

  /** Shows these nodes. */
  set(nodes) {
    this.#nodes = nodes;
    this.#arrange();
    this.#stale();
  }

  /** Shows that a node's work has changed, without moving any. */
  touch() {
    this.#stale();
  }

  /** Lets a task go to a node; `isOwn` for the reader's own. */
  go(node, isOwn) {
    if (this.#isPaused || this.#isCalm.matches || document.hidden) return;
    const place = this.#places.get(node);
    if (!place) return;
    if (this.#moving.length >= MOVING) {
      if (!isOwn) return;
      this.#moving.shift();
    }
    // What comes at once is spread over the time until more may come.
    this.#moving.push({ place, isOwn, since: performance.now() + Math.random() * 450, bend: (Math.random() - 0.5) * 0.5 });
    this.#wake();
  }

  /** Shows what a node gives back: a ring, green or red. */
  end(node, isGood) {
    const place = this.#places.get(node);
    if (!place || this.#isPaused || this.#isCalm.matches || document.hidden) return;
    this.#moving.push({ place, ring: isGood ? "good" : "bad", since: performance.now() });
    this.#wake();
  }

  pause(isPaused) {
    this.#isPaused = isPaused;
    if (isPaused) this.#moving = [];
    this.#stale();
  }

  #recolour() {
    const style = getComputedStyle(document.documentElement);
    const probe = document.createElement("i");
    document.body.append(probe);
    const read = (value) => {
      probe.style.color = value;
      return getComputedStyle(probe).color;
    };
    for (const name of ["ink", "soft", "line", "accent", "good", "bad", "raised"]) {
      this.#colours[name] = read(style.getPropertyValue(`--${name}`).trim());
    }
    for (const tier of TIERS) {
      probe.className = `tier-${tier}`;
      this.#colours[tier] = read("var(--dot)");
    }
    probe.remove();
    this.#stale();
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const scale = Math.min(devicePixelRatio || 1, 2);
    for (const canvas of [this.#canvas, this.#still]) {
      canvas.width = Math.max(1, Math.round(width * scale));
      canvas.height = Math.max(1, Math.round(height * scale));
    }
    this.scale = scale;
    this.#arrange();
    this.#stale();
  }

  /** Puts nodes on ellipses around the middle: the higher the tier, the nearer. */
  #arrange() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const count = this.#nodes.length;
    const sorted = [...this.#nodes].sort((a, b) =>
      TIERS.indexOf(a.tier) - TIERS.indexOf(b.tier) || (a.id < b.id ? -1 : 1));
    const rings = Math.max(1, Math.ceil(Math.sqrt(count / 9)));
    const radius = Math.max(2.2, Math.min(11, 30 / Math.sqrt(Math.max(1, count / 6))));
    this.#places.clear();
    // Outer rings have room for more.
    const weights = Array.from({ length: rings }, (_, ring) => ring + 2);
    const all = weights.reduce((sum, weight) => sum + weight, 0);
    let next = 0;
    weights.forEach((weight, ring) => {
      const isLast = ring === rings - 1;
      const here = isLast ? sorted.slice(next) : sorted.slice(next, next + Math.round((count * weight) / all));
      next += here.length;
      const part = rings === 1 ? 0.78 : 0.36 + (0.6 * ring) / (rings - 1);
      here.forEach((node, index) => {
        const angle = (index / here.length) * 2 * Math.PI - Math.PI / 2 + ring * 0.4;
        this.#places.set(node.id, {
          node,
          x: width / 2 + Math.cos(angle) * (width / 2 - 24) * part,
          y: height / 2 + Math.sin(angle) * (height / 2 - 20) * part,
          radius,
        });
      });
    });
    for (const moving of this.#moving) moving.place = this.#places.get(moving.place.node.id) ?? moving.place;
  }

  #stale() {
    this.#isStale = true;
    this.#wake();
  }

  #wake() {
    if (this.#frame === null && !document.hidden) this.#frame = requestAnimationFrame((now) => this.#draw(now));
  }

  #drawStill() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const context = this.#still.getContext("2d");
    context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const isFew = this.#places.size <= 80;
    if (isFew) {
      context.strokeStyle = this.#colours.line;
      context.lineWidth = 1;
      context.beginPath();
      for (const { x, y } of this.#places.values()) {
        context.moveTo(width / 2, height / 2);
        context.lineTo(x, y);
      }
      context.stroke();
    }
    for (const { node, x, y, radius } of this.#places.values()) {
      const colour = this.#colours[node.tier] ?? this.#colours.soft;
      context.globalAlpha = 0.22;
      context.fillStyle = colour;
      circle(context, x, y, radius);
      context.fill();
      context.globalAlpha = 1;
      const load = node.slots > 0 ? Math.min(1, node.running / node.slots) : 0;
      if (load > 0) {
        context.fillStyle = colour;
        context.beginPath();
        context.moveTo(x, y);
        context.arc(x, y, radius, -Math.PI / 2, -Math.PI / 2 + load * 2 * Math.PI);
        context.fill();
      }
      if (radius > 3.5) {
        context.strokeStyle = colour;
        context.lineWidth = 1.5;
        circle(context, x, y, radius);
        context.stroke();
      }
      if (this.#places.size <= 24) {
        context.fillStyle = this.#colours.soft;
        context.font = "12px system-ui, sans-serif";
        context.textAlign = "center";
        context.fillText((node.name ?? node.id).slice(0, 16), x, y + radius + 14);
      }
    }
    context.fillStyle = this.#colours.accent;
    circle(context, width / 2, height / 2, 13);
    context.fill();
    context.strokeStyle = this.#colours.raised;
    context.lineWidth = 1.6;
    for (const turn of [0, 1, 2]) {
      context.beginPath();
      context.ellipse(width / 2, height / 2, 9, 3.8, (turn * Math.PI) / 3, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  #draw(now) {
    this.#frame = null;
    const began = performance.now();
    if (this.#isStale) {
      this.#isStale = false;
      this.#drawStill();
    }
    const context = this.#canvas.getContext("2d");
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    context.drawImage(this.#still, 0, 0);
    context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    this.#moving = this.#moving.filter((moving) => now - moving.since < WAY);
    for (const { place, isOwn, ring, since, bend } of this.#moving) {
      const part = (now - since) / WAY;
      if (part < 0) continue;
      if (ring) {
        context.globalAlpha = 1 - part;
        context.strokeStyle = this.#colours[ring];
        context.lineWidth = 2;
        circle(context, place.x, place.y, place.radius + part * 14);
        context.stroke();
        continue;
      }
      const eased = 1 - (1 - part) ** 3;
      const [dx, dy] = [place.x - width / 2, place.y - height / 2];
      const swing = Math.sin(eased * Math.PI) * bend;
      const [x, y] = [width / 2 + dx * eased - dy * swing * 0.5, height / 2 + dy * eased + dx * swing * 0.5];
      context.globalAlpha = isOwn ? 1 : 0.65;
      context.fillStyle = isOwn ? this.#colours.accent : this.#colours.soft;
      circle(context, x, y, isOwn ? 4.5 : 2.3);
      context.fill();
    }
    context.globalAlpha = 1;
    if (this.#focus) {
      context.strokeStyle = this.#colours.ink;
      context.lineWidth = 2;
      circle(context, this.#focus.x, this.#focus.y, this.#focus.radius + 3);
      context.stroke();
    }
    this.costs.push(performance.now() - began);
    if (this.costs.length > 600) this.costs.shift();
    if (this.#moving.length > 0) this.#wake();
  }

  #point(event) {
    const box = this.#canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = null;
    let distance = 18;
    for (const place of this.#places.values()) {
      const away = Math.hypot(place.x - x, place.y - y);
      if (away < distance) [best, distance] = [place, away];
    }
    this.#setFocus(best);
  }

  #setFocus(place) {
    if (this.#focus?.node.id === place?.node.id) return;
    this.#focus = place;
    this.onPoint(place?.node ?? null);
    this.#wake();
  }
}

function circle(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
}
