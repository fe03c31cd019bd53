// The icons on buttons.

const PATHS = {
  copy: 'M9 9h10v11H9zM15 9V4H5v11h4',
  retry: 'M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4',
  edit: 'M5 19l1-4L16.5 4.5l3 3L9 18zM14.5 6.5l3 3',
  remove: 'M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13',
  save: 'M12 4v11M7 11l5 5 5-5M5 20h14',
};
const SVG = 'http://www.w3.org/2000/svg';

/** A button with an icon and the accessible name `label`. */
export function iconButton(name, label, onClick) {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'icon small';
  button.setAttribute('aria-label', label);
  button.title = label;
  const drawing = document.createElementNS(SVG, 'svg');
  drawing.setAttribute('viewBox', '0 0 24 24');
  drawing.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', PATHS[name]);
  drawing.append(path);
  button.append(drawing);
  button.addEventListener('click', onClick);
  return button;
}
