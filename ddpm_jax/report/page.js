"use strict";
// Legends that show and hide curves, and a tooltip with the numbers of the point under the pointer.
(() => {
  const REACH = 40; // CSS pixels from the pointer in which a point is looked for
  const GAP = 12; // CSS pixels between a point and its tooltip
  const EDGE = 6; // CSS pixels between the tooltip and the window
  const points = JSON.parse(document.getElementById("points").textContent);
  const tooltip = element("div", { id: "tooltip", role: "status", hidden: "" });
  let shown = null; // the point whose numbers are on show

  function element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function scale(svg) {
    return svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  }

  function place() {
    if (!shown) return;
    const box = shown.svg.getBoundingClientRect();
    const x = box.left + shown.point.x * scale(shown.svg);
    const y = box.top + shown.point.y * scale(shown.svg);
    const { offsetWidth: width, offsetHeight: height } = tooltip;
    const widest = document.documentElement.clientWidth - width - EDGE;
    const above = y - height - GAP;
    tooltip.style.left = `${Math.max(EDGE, Math.min(x - width / 2, widest))}px`;
    tooltip.style.top = `${above < EDGE ? y + GAP : above}px`;
  }

  function hide() {
    shown?.ring.remove();
    tooltip.hidden = true;
    shown = null;
  }

  function show(svg, point) {
    hide();
    const ring = document.createElementNS(svg.namespaceURI, "circle");
    for (const [key, value] of Object.entries({ class: "ring", cx: point.x, cy: point.y, r: 6 })) {
      ring.setAttribute(key, value);
    }
    svg.append(ring);
    const lines = [point.where, point.value].filter(Boolean).map((text) => element("div", {}, text));
    tooltip.replaceChildren(element("strong", {}, point.name), ...lines);
    tooltip.hidden = false;
    shown = { svg, ring, point };
    place();
  }

  function nearest(candidates, distance) {
    let [best, least] = [null, Infinity];
    for (const candidate of candidates) {
      const far = distance(candidate);
      if (far < least) [best, least] = [candidate, far];
    }
    return { best, least };
  }

  function legend(figure, changed) {
    const list = figure.querySelector(".legend");
    if (!list) return;
    const buttons = [...list.children].map((entry) => {
      const children = [...entry.cloneNode(true).childNodes];
      const { name, group = "" } = entry.dataset;
      const attributes = { type: "button", "aria-pressed": "true", "data-name": name, "data-group": group };
      return element("button", attributes, ...children);
    });
    const press = (button, on) => {
      button.setAttribute("aria-pressed", on);
      for (const curve of figure.querySelectorAll(".curve")) {
        if (curve.dataset.curve === button.dataset.name) curve.classList.toggle("off", !on);
      }
      changed(button.dataset.name, on);
    };
    for (const button of buttons) {
      button.addEventListener("click", () => press(button, button.getAttribute("aria-pressed") !== "true"));
    }
    const every = ["all", "none"].map((word) => {
      const button = element("button", { type: "button", class: "every" }, word);
      button.addEventListener("click", () => buttons.forEach((each) => press(each, word === "all")));
      return button;
    });
    const shownIn = (button) => button.getAttribute("aria-pressed") === "true";
    const together = new Map(buttons.map((button) => [button.dataset.group, []]));
    for (const button of buttons) together.get(button.dataset.group).push(button);
    const sets = [...together].flatMap(([name, members]) => {
      if (!name || together.size < 2) return members;
      const heading = element("button", { type: "button", class: "every group" }, name);
      heading.addEventListener("click", () => {
        const on = !members.every(shownIn);
        members.forEach((each) => press(each, on));
      });
      return element("span", { class: "set" }, heading, ...members);
    });
    const attributes = { class: "toggles", role: "group", "aria-label": "Curves to show" };
    list.before(element("div", attributes, ...sets, ...every));
    figure.classList.add("interactive");
  }

  function chart(figure) {
    const plot = figure.querySelector(".plot");
    const svg = plot.querySelector("svg");
    const off = new Set();
    const curves = points[figure.dataset.figure].map(({ name, points: list }) =>
      list.map(([x, y, where, value]) => ({ name, x, y, where, value })));
    const visible = () => curves.filter(([first]) => !off.has(first.name));

    legend(figure, (name, on) => {
      hide();
      off[on ? "delete" : "add"](name);
    });

    const find = (event) => {
      const box = svg.getBoundingClientRect();
      const [x, y] = [(event.clientX - box.left) / scale(svg), (event.clientY - box.top) / scale(svg)];
      const { best, least } = nearest(visible().flat(), (each) => Math.hypot(each.x - x, each.y - y));
      if (least * scale(svg) <= REACH) show(svg, best);
      else hide();
    };
    plot.addEventListener("pointermove", find);
    plot.addEventListener("pointerdown", find);
    plot.addEventListener("pointercancel", hide);
    plot.addEventListener("pointerleave", (event) => event.pointerType === "touch" || hide());

    const step = (key) => {
      const lines = visible();
      const line = lines.findIndex((each) => each.includes(shown?.point));
      if (line < 0) return lines[0]?.[0];
      const at = lines[line].indexOf(shown.point);
      if (key === "ArrowLeft" || key === "ArrowRight") return lines[line][at + (key === "ArrowRight" ? 1 : -1)];
      const other = lines[(line + (key === "ArrowDown" ? 1 : -1) + lines.length) % lines.length];
      return nearest(other, (each) => Math.abs(each.x - shown.point.x)).best;
    };
    const go = (key) => {
      const next = step(key);
      if (!next) return;
      show(svg, next);
      shown.ring.scrollIntoView({ block: "nearest", inline: "nearest" });
      place();
    };
    plot.tabIndex = 0;
    plot.addEventListener("focus", () => plot.matches(":focus-visible") && go("first"));
    plot.addEventListener("blur", () => shown?.svg === svg && hide());
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      if (!event.key.startsWith("Arrow")) return;
      event.preventDefault();
      go(event.key);
    });
  }

  document.body.append(tooltip);
  document.querySelectorAll("figure.chart").forEach(chart);
  document.addEventListener("scroll", place, { capture: true, passive: true });
  document.addEventListener("pointerdown", (event) => event.target.closest(".plot") || hide());
  addEventListener("resize", hide);
  const closed = document.querySelectorAll("details:not([open])");
  addEventListener("beforeprint", () => closed.forEach((details) => (details.open = true)));
})();
