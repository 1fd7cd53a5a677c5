// Sphinx shows only pages that hold every word of a query. People paste questions and whole messages: so each word counts
// for itself, the more the rarer it is, and a page's title most. Long pages hold many words by chance and count for less.
const pagesWith = Search.performTermsSearch;

Search.performTermsSearch = (words, excluded) => {
  const { docnames, terms } = Search._index;
  const length = new Array(docnames.length).fill(0);
  for (const pages of Object.values(terms)) [pages].flat().forEach((page) => length[page]++);
  const found = new Map();
  for (const word of words) {
    const pages = pagesWith(new Set([word]), excluded);
    const rare = Math.log(1 + docnames.length / pages.length);
    for (const page of pages) {
      const same = found.get(page[0]) ?? page.with(4, 0);
      same[4] += rare * page[4];
      found.set(page[0], same);
    }
  }
  return [...found.values()].map((page) => page.with(4, page[4] / length[docnames.indexOf(page[0])] ** 0.5));
};
