for (const box of document.querySelectorAll('.flame')) {
  const search = box.querySelector('.flame-search'), said = box.querySelector('output');
  search.hidden = false;
  search.querySelector('input').addEventListener('input', event => {
    const wanted = event.target.value.trim().toLowerCase();
    let found = 0;
    for (const frame of box.querySelectorAll('g')) {
      const hit = wanted !== '' && frame.firstChild.textContent.split(': ')[0].toLowerCase().includes(wanted);
      frame.classList.toggle('hit', hit);
      found += hit;
    }
    said.value = wanted && `${found} found`;
  });
}
