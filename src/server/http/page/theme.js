// The colours that were chosen, before anything is painted. A classic script, so that it is not put off.
(() => {
  const name = 'lapidary.theme';
  const root = document.documentElement;
  const show = (theme) => {
    if (theme === 'light' || theme === 'dark') root.dataset.theme = theme;
    else delete root.dataset.theme;
  };
  try {
    show(localStorage.getItem(name));
  } catch {
    // Storage is forbidden: the system's colours.
  }
  window.lapidaryTheme = { name, show };
})();
