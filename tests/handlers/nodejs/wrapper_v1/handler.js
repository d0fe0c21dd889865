exports.handler = (body, event) => {
  if (event.path === '/throw') throw new Error('thrown')
  if (event.path === '/reject') Promise.reject(new Error('rejected'))
  return `${event.path} ${body.length}`
}
