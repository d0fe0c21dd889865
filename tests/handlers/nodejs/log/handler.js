exports.handler = (context, event) => {
  context.logger.debug('d')
  context.logger.infoWith('i', { number: 1, text: 'grüß' })
  context.logger.warn('w')
  context.logger.error('e')
  context.callback('logged')
}
