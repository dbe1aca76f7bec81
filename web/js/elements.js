// Short ways to make DOM elements.

export function make(tag, className, parent, text) {
  const element = document.createElement(tag)
  if (className) element.className = className
  if (text) element.textContent = text
  parent?.append(element)
  return element
}
