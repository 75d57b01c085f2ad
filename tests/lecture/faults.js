// What is wrong with the slides of a deck, as sentences. Everything that is read or seen is a mark: a line of text or an image.

// px on a slide 1280 wide
const SMALLEST = 14; // letter
const MARGIN = 28;

// Goes through the deck as a lecturer does. Returns how many slides there were and what is wrong with them.
function onScreen() {
  const frame = { left: 0, top: 0, right: innerWidth, bottom: innerHeight };
  const found = [];
  for (let slides = 1; ; slides++) {
    const beside = document.querySelectorAll(".reveal > .slide-number, .reveal > .controls button.enabled");
    found.push(...faults(Reveal.getCurrentSlide(), frame, beside));
    if (Reveal.isLastSlide() || slides > 1000) return { slides, found };
    Reveal.next();
  }
}

function onPaper() {
  const pages = [...document.querySelectorAll(".pdf-page")];
  const of = (page) => [page.querySelector("section"), page.getBoundingClientRect(), page.querySelectorAll(".slide-number")];
  return { slides: pages.length, found: pages.flatMap((page) => faults(...of(page))) };
}

// frame: the window or the printed page. beside: what stands in it besides the slide.
function faults(slide, frame, beside) {
  const found = [];
  const say = (fault, text) => found.push(`${slide.querySelector("h1, h2, h3").textContent}: ${fault}: ${text.trim().slice(0, 40)}`);
  const box = slide.getBoundingClientRect();
  const scale = box.width / slide.offsetWidth;
  const feet = [...slide.querySelectorAll(".reference, .by"), ...beside].flatMap(marks);
  const body = marks(slide).filter(({ from }) => !from.closest(".reference, .by"));
  const room = within(box, MARGIN * scale);

  if (!body.length) say("empty", "");
  for (const part of [slide, ...slide.querySelectorAll("table, figure, img")])
    if (part.scrollWidth > part.clientWidth || part.scrollHeight > part.clientHeight) say("larger than its place", part.tagName);
  for (const image of slide.querySelectorAll("img")) if (!image.complete || !image.naturalWidth) say("not loaded", image.src);
  for (const { text, box, from } of [...body, ...feet]) {
    if (!inside(box, frame)) say("cut", text);
    const outside = slide.contains(from) ? 1 : scale; // of what reveal.js scales
    if (parseFloat(getComputedStyle(from).fontSize) / outside < SMALLEST - 0.01 && text) say("small", text);
  }
  for (const { text, box } of body) {
    if (!inside(box, room)) say("in the margin", text);
    for (const foot of feet) if (!apart(box, foot.box)) say(`on "${foot.text}"`, text);
  }
  feet.forEach((a, i) => feet.slice(i + 1).forEach((b) => apart(a.box, b.box) || a.from === b.from || say(`on "${b.text}"`, a.text)));
  return found;
}

// A button has neither text nor an image, but its own box.
function marks(element) {
  if (element.matches("button")) return [{ text: "", box: element.getBoundingClientRect(), from: element }];
  const found = [...element.querySelectorAll("img")].map((image) => ({ text: image.src, box: image.getBoundingClientRect(), from: image }));
  const texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    const range = document.createRange();
    range.selectNodeContents(text);
    if (text.data.trim()) found.push(...[...range.getClientRects()].map((box) => ({ text: text.data, box, from: text.parentElement })));
  }
  return found;
}

function within(box, by) {
  return { left: box.left + by, top: box.top + by, right: box.right - by, bottom: box.bottom - by };
}

function inside(a, b) {
  return a.left > b.left - 1 && a.top > b.top - 1 && a.right < b.right + 1 && a.bottom < b.bottom + 1;
}

function apart(a, b) {
  return a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
}
