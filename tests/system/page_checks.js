// Run in pages of the console by tests/system/browser.py: what has the focus, and what is wrong with a page.

const nameOf = (element) => {
  const named = element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent;
  return named.replace(/\s+/g, " ").trim();
};

function focused() {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  const { top, bottom, left, right, width, height } = element.getBoundingClientRect();
  const above = document.elementFromPoint((Math.max(left, 0) + Math.min(right, innerWidth)) / 2, (Math.max(top, 0) + Math.min(bottom, innerHeight)) / 2);
  return {
    name: nameOf(element),
    tag: element.localName,
    ringed: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    shown: width > 0 && height > 0 && above !== null && (element.contains(above) || above.contains(element)),
    above: above?.outerHTML.slice(0, 100),
  };
}

// Contrast as WCAG 2.2 has it, of the colours that the browser computed.

const channels = (colour) => {
  const found = colour.match(/^rgba?\(([\d.]+), ([\d.]+), ([\d.]+)(?:, ([\d.]+))?\)$/);
  if (!found) throw new Error(`not a colour that this script knows: ${colour}`);
  return [found[1], found[2], found[3], found[4] ?? 1].map(Number);
};
const over = ([r, g, b, a], ground) => [r, g, b].map((channel, at) => channel * a + ground[at] * (1 - a));
const luminance = (colour) => {
  const [r, g, b] = colour.map((channel) => channel / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (one, other) => {
  const [darker, lighter] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (lighter + 0.05) / (darker + 0.05);
};

function ground(element) {
  const above = [];
  for (let at = element; at; at = at.parentElement) above.unshift(channels(getComputedStyle(at).backgroundColor));
  return above.reduce((below, colour) => over(colour, below), [255, 255, 255]);
}

function isShown(element) {
  if (!element.checkVisibility({ visibilityProperty: true }) || element.closest(".hidden, .skip:not(:focus)")) return false;
  const { width, height } = element.getBoundingClientRect();
  return width > 0 && height > 0;
}

function* texts() {
  for (const element of document.body.querySelectorAll("*")) {
    if (!isShown(element)) continue;
    const own = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data).join("").trim();
    const style = getComputedStyle(element);
    if (own && !element.closest("svg")) yield [element, own, style];
    if (element.matches("input, textarea") && element.value) yield [element, element.value, style];
    if (element.placeholder && !element.value) yield [element, element.placeholder, getComputedStyle(element, "::placeholder")];
    for (const pseudo of ["::before", "::after"]) {
      const made = getComputedStyle(element, pseudo);
      if (/^"(?!")/.test(made.content)) yield [element, made.content, made];
    }
  }
}

function faultsOfContrast() {
  return [...texts()].flatMap(([element, text, style]) => {
    const size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    const behind = ground(element);
    const found = contrast(over(channels(style.color), behind), behind);
    return found >= least ? [] : [`contrast ${found.toFixed(2)} of "${text.slice(0, 40)}" in ${element.localName}.${element.className}`];
  });
}

function faultsOfHeadings() {
  const found = [...document.querySelectorAll("main :is(h1, h2, h3, h4)")];
  const levels = found.map((heading) => Number(heading.localName[1]));
  const skips = levels.flatMap((level, at) => (level > (levels[at - 1] ?? 0) + 1 ? [`h${level} after h${levels[at - 1] ?? 0}: ${nameOf(found[at])}`] : []));
  const wrong = levels.filter((level) => level === 1).length === 1 ? [] : [`h1: ${levels}`];
  return [...skips, ...wrong, ...found.filter((heading) => !nameOf(heading)).map((heading) => `an empty ${heading.localName}`)];
}

function faultsOfNames() {
  const parts = document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0'], svg[role], meter");
  return [...parts].filter((part) => isShown(part) && !nameOf(part)).map((part) => `without a name: ${part.outerHTML.slice(0, 120)}`);
}

function faultsOfTouch() {
  // WCAG 2.2, 2.5.8: 24 px, except links within a sentence.
  const parts = [...document.querySelectorAll("button, .button, input:not([type=hidden]), select, nav a")].filter(isShown);
  const small = (part) => ["width", "height"].some((side) => Math.round(part.getBoundingClientRect()[side]) < 24);
  return parts.filter(small).filter((part) => !part.matches(".plain, input[type=checkbox]")).map((part) => `small to touch: ${part.outerHTML.slice(0, 120)}`);
}

function faultsOfWidth() {
  const page = document.scrollingElement;
  const cut = [...document.querySelectorAll(".table")].filter((table) => isShown(table) && table.scrollWidth > table.clientWidth + 1);
  if (cut.length) return cut.map((table) => `a table ${table.scrollWidth} px wide in ${table.clientWidth}: ${table.innerText.slice(0, 80)}`);
  if (page.scrollWidth <= innerWidth) return [];
  const wide = [...document.body.querySelectorAll("*")].filter((element) => isShown(element) && element.getBoundingClientRect().right > innerWidth + 1);
  return [`${page.scrollWidth} px wide in ${innerWidth}: ${wide.slice(0, 4).map((element) => element.outerHTML.slice(0, 100))}`];
}

function faults() {
  const twice = [...document.querySelectorAll("[id]")].map((element) => element.id).filter((id, at, all) => all.indexOf(id) !== at);
  return [...faultsOfContrast(), ...faultsOfHeadings(), ...faultsOfNames(), ...faultsOfTouch(), ...faultsOfWidth(), ...twice.map((id) => `id twice: ${id}`)];
}
