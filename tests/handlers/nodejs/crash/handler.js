exports.handler = (context, event) => {
  if (event.path === '/exit') process.exit(7)
  if (event.path === '/signal') process.kill(process.pid, 'SIGKILL')
  context.callback('alive')
}
