exports.handler = (context, event) => {
  while (event.path === '/hang');
  context.callback('back')
}
