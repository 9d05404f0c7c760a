// The snippets of the product's pages, unchanged but for host, key and agent.
const { BASE, HOST, KEY, AGENT } = process.env

const response = await fetch(`${HOST}/api/v1/chat`, {
  method: 'POST',
  headers: { 'Authorization': `Bearer ${KEY}`, 'Content-Type': 'application/json' },
  body: JSON.stringify({ message: 'Hello!' }),
})
const data = await response.json()
if (!data.response) throw new Error(JSON.stringify(data))

const byId = await fetch(`${BASE}/api/v2/agent/${AGENT}/chat`, {
  method: 'POST',
  headers: { 'Authorization': `Bearer ${KEY}`, 'Content-Type': 'application/json' },
  body: JSON.stringify({
    query: '¿Cuáles son los horarios de atención?',
    conversationId: 'conv-123',
    streaming: false,
  }),
})
const answer = await byId.json()
if (answer.conversationId !== 'conv-123') throw new Error(JSON.stringify(answer))

const list = await fetch(`${BASE}/api/conversations?agentId=${AGENT}`, {
  headers: { 'Authorization': `Bearer ${KEY}` },
})
const conversations = await list.json()
const total = conversations.reduce((sum, conversation) => sum + conversation.messageCount, 0)
console.log(`${total} messages in ${conversations.length} conversations`)
