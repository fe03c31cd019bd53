// Applies the chosen colours before the first paint. It is a classic script, because modules are deferred.
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
    // Storage is forbidden: use the system's colours.
  }
  window.lapidaryTheme = { name, show };
})();
