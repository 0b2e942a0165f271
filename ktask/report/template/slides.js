"use strict";
// Keys, clicks and swipes move; without this script the slides stand one below the other.
const slides = [...document.querySelectorAll(".slide")];
const small = window.matchMedia("(max-width: 40rem)");
let now = 0;

function show(to) {
  now = Math.min(Math.max(to, 0), slides.length - 1);
  slides.forEach((one, i) => one.classList.toggle("now", i === now));
  history.replaceState(null, "", `#${now + 1}`);
}

function fit() {
  document.documentElement.classList.toggle("deck", !small.matches);
}

const moves = {
  ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, Enter: 1, n: 1,
  ArrowLeft: -1, ArrowUp: -1, PageUp: -1, Backspace: -1, p: -1,
  Home: -slides.length, End: slides.length,
};

document.addEventListener("keydown", (event) => {
  if (small.matches || event.ctrlKey || event.altKey || event.metaKey || !(event.key in moves)) return;
  event.preventDefault();
  show(now + moves[event.key]);
});
document.addEventListener("click", (event) => {
  if (small.matches || event.target.closest("a, button") || String(getSelection())) return;
  show(now + (event.clientX < window.innerWidth / 4 ? -1 : 1));
});
window.addEventListener("hashchange", () => show(Number(location.hash.slice(1)) - 1 || 0));
small.addEventListener("change", fit);
fit();
show(Number(location.hash.slice(1)) - 1 || 0);
