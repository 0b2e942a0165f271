// What the page does beyond being read. Text of a run gets in by textContent alone, never as HTML.

// --- tables: a click or Enter on a heading sorts up, then down, then as it was ---------------------------

function compare(one, other) {
  const keys = [one, other].map(cell => cell.dataset.key);
  if (keys.includes(undefined)) {
    return one.textContent.localeCompare(other.textContent, 'en', {numeric: true});
  }
  return keys[0] - keys[1];
}

function sort(table, heading, was, way) {
  const at = heading.cellIndex, sign = way === 'descending' ? -1 : 1, body = table.tBodies[0];
  const missing = row => row.cells[at].dataset.key === 'nan';
  const rows = way === 'none' ? was : [...was].sort((a, b) =>
    missing(a) - missing(b) || sign * compare(a.cells[at], b.cells[at]));
  body.append(...rows);
  for (const one of table.tHead.rows[0].cells) one.setAttribute('aria-sort', one === heading ? way : 'none');
}

const NEXT = {none: 'ascending', ascending: 'descending', descending: 'none'};

for (const table of document.querySelectorAll('table.sorts')) {
  const was = [...table.tBodies[0].rows];
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...heading.childNodes);
    heading.append(button);
    heading.setAttribute('aria-sort', 'none');
    button.addEventListener('click', () => sort(table, heading, was, NEXT[heading.getAttribute('aria-sort')]));
  }
}

// --- figures: what a point or bar says, by pointer, by tap, and by the arrow keys in a figure -------------

const MARKS = '.value, .flame g';
const tip = document.createElement('output');
tip.id = 'tip';
tip.hidden = true;
document.body.append(tip);
let shown = null;  // the mark whose text is shown, and its title, which the browser would show once more

function hide() {
  if (shown) {
    shown.mark.prepend(shown.title);
    shown.mark.classList.remove('shown');
  }
  shown = null;
  tip.hidden = true;
}

function show(mark) {
  if (shown?.mark === mark) return;
  hide();
  const title = mark.querySelector(':scope > title');
  if (!title) return;
  shown = {mark, title};
  title.remove();
  mark.classList.add('shown');
  tip.textContent = title.textContent;
  tip.hidden = false;
  const box = mark.getBoundingClientRect(), width = document.documentElement.clientWidth;
  tip.style.left = `${Math.max(4, Math.min(box.x + box.width / 2, width - tip.offsetWidth - 4))}px`;
  tip.style.top = `${box.top > tip.offsetHeight + 8 ? box.top - tip.offsetHeight - 6 : box.bottom + 6}px`;
}

document.addEventListener('pointerover', event => {
  const mark = event.target.closest(MARKS);
  if (mark) show(mark); else if (event.target !== tip) hide();
});
document.addEventListener('scroll', hide, {capture: true, passive: true});

for (const region of document.querySelectorAll('figure .scroll, .flame .scroll')) {
  const marks = [...region.querySelectorAll(MARKS)];
  if (!marks.length) continue;
  let at = -1;
  region.setAttribute('aria-label', `${region.getAttribute('aria-label')}; the arrow keys read its values`);
  region.addEventListener('keydown', event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (step) {
      event.preventDefault();
      at = (at + step + marks.length + (at < 0 && step < 0)) % marks.length;
      marks[at].scrollIntoView({block: 'nearest', inline: 'nearest'});
      requestAnimationFrame(() => show(marks[at]));
    } else if (event.key === 'Escape') {
      hide();
    }
  });
  region.addEventListener('blur', hide);
}

// --- evidence: a link to something folded unfolds it -----------------------------------------------------

function unfold() {
  const there = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!there) return;
  let folded = there.matches('details') ? there : there.closest('details:not([open])');
  for (; folded; folded = folded.parentElement.closest('details')) folded.open = true;
  there.scrollIntoView();
}
addEventListener('hashchange', unfold);
document.addEventListener('click', event => {
  if (event.target.closest('a[href^="#"]')?.hash === location.hash) unfold();  // no change, so no event
});
unfold();

// --- flame graphs: search --------------------------------------------------------------------------------

for (const box of document.querySelectorAll('.flame')) {
  const search = box.querySelector('.flame-search'), said = box.querySelector('output');
  search.hidden = false;
  search.querySelector('input').addEventListener('input', event => {
    const wanted = event.target.value.trim().toLowerCase();
    let found = 0;
    hide();
    for (const frame of box.querySelectorAll('g')) {
      const hit = wanted !== '' && frame.firstChild.textContent.split(': ')[0].toLowerCase().includes(wanted);
      frame.classList.toggle('hit', hit);
      found += hit;
    }
    said.value = wanted && `${found} found`;
  });
}
