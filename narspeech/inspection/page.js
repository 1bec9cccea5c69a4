"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const detail = document.getElementById("detail");
  const moment = document.getElementById("moment");
  const sound = document.querySelector("audio");
  const plot = document.querySelector("svg.plot");
  const buttons = [...document.querySelectorAll("button.word")];
  let stop = null;
  let marked = -1;

  // Which word is spoken at a time, in seconds from the beginning of the stretch; -1: none.
  const at = (time) => data.words.findIndex((word) => word && word[0] <= time && time < word[1]);

  function mark(number) {
    if (number === marked) return;
    marked = number;
    for (const element of document.querySelectorAll(".on")) element.classList.remove("on");
    for (const element of document.querySelectorAll(`[data-word="${number}"]`)) element.classList.add("on");
    if (number >= 0) detail.textContent = buttons[number].getAttribute("aria-label");
  }

  function play(time, end) {
    if (!sound) return;
    stop = end;
    sound.currentTime = time;
    sound.play();
  }

  function choose(number, alone) {
    mark(number);
    const word = data.words[number];
    if (word) play(word[0], alone ? word[1] : null);
  }

  for (const button of buttons) {
    const number = Number(button.dataset.word);
    button.addEventListener("mouseenter", () => mark(number));
    button.addEventListener("focus", () => mark(number));
    button.addEventListener("click", (event) => choose(number, event.shiftKey));
  }
  if (!plot) return;

  const cursor = plot.querySelector(".cursor");
  let here = 0;

  function show(time) {
    here = Math.min(Math.max(time, 0), data.duration);
    cursor.setAttribute("x1", here * data.scale);
    cursor.setAttribute("x2", here * data.scale);
    const frame = data.frames[Math.floor(here / data.frame + 1e-6)];
    const labels = (frame || []).map(([label, percent]) => `${data.names[label]} ${percent} %`);
    const seconds = (data.start + here).toFixed(2);
    const number = at(here);
    mark(number);
    moment.textContent = labels.length ? `${seconds} s: ${labels.join(", ")}` : `${seconds} s`;
    if (number >= 0) moment.textContent += `\n${detail.textContent}`;
    plot.setAttribute("aria-valuenow", seconds);
    plot.setAttribute("aria-valuetext", moment.textContent);
  }

  const pointed = (event) => (event.clientX - plot.getBoundingClientRect().left) / data.scale;
  plot.addEventListener("mousemove", (event) => show(pointed(event)));
  plot.addEventListener("click", (event) => {
    const word = event.target.closest("[data-word]");
    if (word) choose(Number(word.dataset.word), event.shiftKey);
    else play(pointed(event), null);
  });
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -data.frame, ArrowRight: data.frame }[event.key];
    if (step) show(here + step);
    else if (event.key === "Enter") play(here, null);
    else return;
    event.preventDefault();
  });
  if (!sound) return;

  function follow() {
    const time = sound.currentTime;
    if (stop !== null && time >= stop) {
      stop = null;
      sound.pause();
    }
    show(time);
    const view = plot.parentElement;
    const x = time * data.scale;
    if (x < view.scrollLeft || x > view.scrollLeft + view.clientWidth) view.scrollLeft = x - view.clientWidth / 8;
    if (!sound.paused) requestAnimationFrame(follow);
  }
  sound.addEventListener("play", () => requestAnimationFrame(follow));
  sound.addEventListener("seeking", () => show(sound.currentTime));
})();
